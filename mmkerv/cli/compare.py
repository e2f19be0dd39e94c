"""Compare operators on the task of a config: ``compare.py CONFIG --operators plain coc dcls --seeds 3``."""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkerv.cli import common
from mmkerv.config_files import config_name, require_config

if TYPE_CHECKING:
    from mmengine.config import Config

    from mmkerv.analysis.comparison.cost import Cost
    from mmkerv.analysis.comparison.processes import Launch
    from mmkerv.analysis.comparison.record import Run
    from mmkerv.analysis.comparison.variant import Variant

SETTINGS_FILE, RESULTS_FILE, TABLE_FILE, COST_FILE = 'comparison.json', 'results.json', 'results.md', 'cost.json'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Train a config with several operators under the same seeds, fold the networks, and write a table, '
        'JSON and a page with the paired differences from the plain network. It goes on where it was stopped: give the '
        'same command again'
    )
    parser.add_argument('config', help='config file of the plain network')
    parser.add_argument(
        '--operators',
        nargs='+',
        default=['plain', 'coc'],
        metavar='SPEC',
        help='plain, or the short name of an operator, with settings behind a colon: coc:super_init=kaiming '
        'kerv:where.stages=() coc:cfg.optim_wrapper.optimizer.type=AdamW; default plain coc',
    )
    parser.add_argument('--seeds', type=int, default=3, metavar='N', help='seeds 0 to N-1; default 3')
    length = parser.add_mutually_exclusive_group()
    length.add_argument('--epochs', type=int, metavar='N', help='train for N epochs; the schedule is scaled with it')
    length.add_argument('--iters', type=int, metavar='N', help='the same in iterations, for a config that counts these')
    parser.add_argument('--work-dir', help='folder for everything; default work_dirs/compare_NAME_OF_CONFIG')
    parser.add_argument('--metric', metavar='KEY', help='metric of the table; default the usual one of the task')
    parser.add_argument('--jobs', type=int, default=1, metavar='N', help='trainings at a time; default 1')
    parser.add_argument(
        '--dry-run', action='store_true', help='print cost and replaced layers of each network; train nothing'
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the actual batch size')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='start each training by this: torch.distributed.run, srun or mpirun',
    )
    parser.add_argument('--gpus', type=int, metavar='N', help='processes of each training with a launcher')
    common.add_cfg_options(parser)
    args = parser.parse_args(argv)
    for flag in ('seeds', 'epochs', 'iters', 'jobs', 'gpus'):
        value = getattr(args, flag)
        if value is not None and value < 1:
            parser.error(f'--{flag} must be >= 1, got {value}')
    if args.gpus and args.launcher == 'none':
        parser.error('--gpus needs a launcher: add --launcher pytorch')
    require_config(args.config)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, fold, time, and write the results."""
    args = parse_args(argv)
    try:
        compare(args)
    except KeyboardInterrupt:
        # Outside the trainings, which stop by themselves: nothing that is finished is lost.
        print('\nstopped; the same command goes on', file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def compare(args: argparse.Namespace) -> None:
    """Run the comparison that the command line asks for."""
    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from mmkerv.analysis.comparison.processes import Trainer, locked
    from mmkerv.analysis.comparison.record import Run
    from mmkerv.analysis.comparison.results import table
    from mmkerv.analysis.comparison.variant import parse_variants
    from mmkerv.distributions import importable
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.engine.config.read import load_config
    from mmkerv.engine.config.schedule import length, positions_of_hooks, reschedule
    from mmkerv.errors import InstallationError

    if not importable('scipy'):
        raise InstallationError('intervals need scipy: pip install scipy')
    cfg = load_config(args.config, args.cfg_options)
    # The config may import an operator of the user's.
    variants = parse_variants(args.operators)
    apply_patches(cfg.get('default_scope'))
    changes = reschedule(cfg, args.epochs, args.iters)
    work = Path(args.work_dir or Path('work_dirs', f'compare_{config_name(args.config)}'))
    total = length(cfg)
    print(f'{len(variants)} operators x {args.seeds} seeds = {len(variants) * args.seeds} runs of {total} in {work}')
    if changes:
        print(f'schedule scaled: {"; ".join(changes)}')
        if kept := positions_of_hooks(cfg):
            print(f'not scaled, see what these hooks do in {total}: {", ".join(kept)}')
    texts = written_configs(cfg, variants)
    if args.dry_run:
        costs = all_costs(cfg, variants, work, keep=False)
        print(cost_table(costs))
        require_built([spec for spec, found in costs.items() if isinstance(found, str)])
        return
    launch = how_to_launch(args)
    with locked(work) as lock:
        configs = keep_settings(args, launch, work, variants, texts)
        costs = all_costs(cfg, variants, work)
        print(cost_table(costs), flush=True)
        runs = [
            Run(variant, seed, work / variant.folder / f'seed_{seed}')
            for seed in range(args.seeds)
            for variant in variants
            if not isinstance(costs[variant.spec], str)
        ]
        comparison = Comparison(args, work, variants, runs, configs, costs, changes)
        epochs = total.number if total.unit == 'epoch' else 1
        trainer = Trainer(configs, launch, args.jobs, epochs, lock, tell, comparison.write)
        stopped = trainer.train(runs)
        if not stopped:
            # Before what may fail: the values took the trainings.
            print(table(comparison.write()), flush=True)
            comparison.fold_and_time()
        found = comparison.write(page=True)
    if stopped:
        print(f'stopped; the same command goes on: {comparison.command}', file=sys.stderr)
        sys.exit(128 + stopped)
    if failed := [f'{row["operator"]}, seed {seed}' for row in found['rows'] for seed in row['failed']]:
        sys.exit(f'error: {len(failed)} of {len(runs)} runs failed: {"; ".join(failed)}. The same command tries again')
    require_built([row['operator'] for row in found['rows'] if row['not_built']])


def require_built(failed: Sequence[str]) -> None:
    """End the command with an error if networks could not be built."""
    if failed:
        sys.exit(f'error: not built: {", ".join(failed)}; see the notes above')


def tell(line: str) -> None:
    """Print a line in place of the progress line."""
    print(f'\r\033[K{line}' if sys.stdout.isatty() else line, flush=True)


def how_to_launch(args: argparse.Namespace) -> 'Launch':
    """Return how trainings are started, on the GPUs that this process sees.

    Raises:
        ConfigError: if a launcher is asked for and nothing tells the number of its processes.
    """
    import os

    import torch

    from mmkerv.analysis.comparison.processes import Launch
    from mmkerv.errors import ConfigError

    visible = [str(i) for i in range(torch.cuda.device_count())]
    named = os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',')
    devices = named if len(named) == len(visible) and all(named) else visible
    flags = [flag for flag in ('amp', 'auto-scale-lr') if getattr(args, flag.replace('-', '_'))]
    processes = args.gpus or (len(devices) if args.launcher != 'none' else 1)
    if not processes:
        raise ConfigError(f'--launcher {args.launcher}: torch sees no GPU; say how many processes: --gpus N')
    # srun and mpirun give their processes the GPUs themselves.
    shared = tuple(devices) if args.launcher in ('none', 'pytorch') else ()
    return Launch(args.launcher, processes, shared, tuple(f'--{flag}' for flag in flags))


def written_configs(cfg: 'Config', variants: 'Sequence[Variant]') -> dict[str, str]:
    """Return the config of each variant as text, by its spec, and print what its settings made necessary."""
    from mmkerv.analysis.comparison.placed import variant_config

    texts = {}
    for variant in variants:
        own, notes = variant_config(cfg, variant)
        texts[variant.spec] = own.pretty_text
        for note in notes:
            print(f'{variant.spec}: {note}')
    return texts


def keep_settings(
    args: argparse.Namespace, launch: 'Launch', work: Path, variants: 'Sequence[Variant]', texts: dict[str, str]
) -> dict[str, Path]:
    """Write the settings of a new comparison, or check that those of an old one are the same.

    Operators and seeds may be added.

    Returns:
        The config file of each variant, by its spec.

    Raises:
        ConfigError: naming the first setting that is another one.
    """
    from mmkerv.analysis.comparison.record import write_json
    from mmkerv.engine.checkpoint.atomic_write import atomic_path
    from mmkerv.errors import ConfigError

    advice = 'give another --work-dir, or the settings of before'
    settings = {key: getattr(args, key) for key in ('amp', 'auto_scale_lr', 'launcher')}
    # Without --gpus, the GPUs that this process sees: the size of a batch depends on their number.
    settings['processes'] = launch.processes
    file = work / SETTINGS_FILE
    if file.is_file():
        for key, old in json.loads(file.read_text()).items():
            if settings.get(key, old) != old:
                raise ConfigError(f'{work} was begun with {key} {old}, now it is {settings[key]}: {advice}')
    name = f'{config_name(args.config)}.py'
    for other in sorted(work.glob('*/*.py')):
        if other.name != name:
            raise ConfigError(f'{work} was begun with the config {other.name}, now it is {name}: {advice}')
    configs = {v.spec: work / v.folder / name for v in variants}
    for spec, config in configs.items():
        if config.is_file() and (change := first_change(config.read_text(encoding='utf-8'), texts[spec])):
            raise ConfigError(f'{work} was begun with other settings of {spec}: {change}; {advice}')
    write_json(file, settings)
    for spec, config in configs.items():
        if not config.is_file():
            with atomic_path(config) as temporary:
                temporary.write_text(texts[spec], encoding='utf-8')
    return configs


def first_change(old: str, new: str) -> str:
    r"""Return the first difference of two configs in words, or nothing if they are equal.

    Example:
        >>> first_change('a = 1\nlr = 0.1\n', 'a = 1\nlr = 0.2\n')
        'lr = 0.1 is now lr = 0.2'
    """
    import difflib

    from mmkerv.utils import printable

    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm='', n=0))[2:]
    removed, added = (
        printable(' '.join(next((line[1:] for line in lines if line[0] == sign), 'nothing').split())) for sign in '-+'
    )
    return f'{removed} is now {added}' if lines else ''


def all_costs(cfg: 'Config', variants: 'Sequence[Variant]', work: Path, keep: bool = True) -> 'dict[str, Cost | str]':
    """Return the cost of each variant, or why it cannot be built, by its spec; ``keep`` reads and writes files."""
    from mmkerv.analysis.comparison.cost import ASSUMED, UNCOUNTED, Cost, cost, reason
    from mmkerv.analysis.comparison.placed import variant_config
    from mmkerv.analysis.comparison.record import write_json
    from mmkerv.analysis.complexity import Complexity

    found: dict[str, Cost | str] = {}
    for variant in variants:
        file = work / variant.folder / COST_FILE
        if keep and file.is_file():
            known = json.loads(file.read_text())
            # There may be data now.
            if known['complexity'] and not known['note'].startswith(ASSUMED):
                counts = Complexity(**known['complexity'])
                found[variant.spec] = Cost(known['replaced'], tuple(known['shape']), counts, known['note'])
                continue
        try:
            found[variant.spec] = cost(variant_config(cfg, variant)[0])
        except UNCOUNTED as error:
            found[variant.spec] = reason(error)
        else:
            if keep:
                write_json(file, found[variant.spec].as_dict())
    return found


def cost_table(costs: 'dict[str, Cost | str]') -> str:
    """Return the costs as a table for a terminal, with what was replaced below it."""
    from prettytable import PrettyTable

    from mmkerv.analysis.comparison.cost import Cost
    from mmkerv.analysis.comparison.results import short

    table = PrettyTable(['operator', 'parameters', 'folded', 'MACs of an image', 'of its kernels', 'of it folded'])
    table.align = 'r'
    table.align['operator'] = 'l'
    lines = []
    for spec, cost in costs.items():
        counts = cost.complexity if isinstance(cost, Cost) else None
        numbers = counts and (short(counts.image), short(counts.kernels), short(counts.folded))
        parameters = counts and (f'{counts.parameters:,}', f'{counts.folded_parameters:,}')
        table.add_row([spec, *(parameters or '--'), *(numbers or '---')])
        if isinstance(cost, Cost):
            shape = f'{cost.shape[0]} x {cost.shape[1]} image'
            lines.append(f'{spec}: {cost.replaced} ({"; ".join(filter(None, (shape, cost.note)))})')
        else:
            lines.append(f'{spec}: not built: {cost}')
    return '\n'.join([str(table), *lines])


class Comparison:
    """The comparison so far, and its files."""

    def __init__(
        self,
        args: argparse.Namespace,
        work: Path,
        variants: 'Sequence[Variant]',
        runs: 'Sequence[Run]',
        configs: dict[str, Path],
        costs: 'dict[str, Cost | str]',
        changes: list[str],
    ):
        from mmkerv.analysis.comparison.folding import kept_fold, kept_times

        self.args, self.work, self.variants, self.runs = args, work, variants, runs
        self.configs, self.costs, self.changes = configs, costs, changes
        # Of an earlier start: the results are written after each training, long before the next folding and timing.
        self.folds: dict[str, dict[str, Any]] = {run.name: fold for run in runs if (fold := kept_fold(run))}
        self.inference: dict[str, Any] = kept_times(runs, work)
        program = 'python tools/compare.py' if sys.argv[0].endswith('.py') else 'mmkerv compare'
        self.command = f'{program} {" ".join(map(quoted, sys.argv[1:]))}'

    def fold_and_time(self) -> None:
        """Fold the finished runs, and time one of each variant."""
        import torch

        from mmkerv.analysis.comparison.cost import Cost
        from mmkerv.analysis.comparison.folding import fold_run, times
        from mmkerv.analysis.comparison.record import DONE

        done = [run for run in self.runs if (run.record() or {}).get('status') == DONE and run.checkpoint]
        if not done:
            return
        shapes = {spec: cost.shape for spec, cost in self.costs.items() if isinstance(cost, Cost)}
        for run in done:
            if run.variant.operator is not None:
                tell(f'{run.name}: folding')
            self.folds[run.name] = fold_run(run, self.configs[run.variant.spec], shapes[run.variant.spec])
        first = list({run.variant.spec: run for run in reversed(done)}.values())[::-1]
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        self.inference = times(first, self.configs, shapes[first[0].variant.spec], self.work, device, tell)

    def write(self, page: bool = False) -> dict[str, Any]:
        """Write JSON and markdown, and at the end the page; print the table then, and return the results."""
        from datetime import datetime, timezone

        from mmkerv.analysis.comparison.record import write_json
        from mmkerv.analysis.comparison.results import notes, results, table
        from mmkerv.analysis.machine import environment
        from mmkerv.engine.checkpoint.atomic_write import atomic_path
        from mmkerv.engine.config.read import load_config
        from mmkerv.engine.config.schedule import length

        # A misspelt metric is no reason to stop the trainings: it is refused at the end.
        metric = self.args.metric if page else None
        found = results(self.variants, self.runs, self.costs, self.folds, self.inference, metric)
        total = length(load_config(str(next(iter(self.configs.values())))))
        found |= {
            'config': self.args.config,
            'options': self.args.cfg_options or {},
            'schedule': f'{total} a run' + (f'; scaled: {"; ".join(self.changes)}' if self.changes else ''),
            'seeds': self.args.seeds,
            'command': self.command,
            'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
            'environment': environment(),
        }
        write_json(self.work / RESULTS_FILE, found)
        with atomic_path(self.work / TABLE_FILE) as temporary:
            temporary.write_text(document(found, table(found, markdown=True), notes(found)), encoding='utf-8')
        if page:
            print('\n'.join([table(found), *notes(found)]))
            print(f'table     {self.work / TABLE_FILE}\nresults   {self.work / RESULTS_FILE}')
            print(f'page      {self._page(found)}')
        return found

    def _page(self, found: dict[str, Any]) -> str:
        """Write the page and return its path, or why there is none."""
        from mmkerv.distributions import importable

        if missing := [name for name in ('jinja2', 'matplotlib') if not importable(name)]:
            return f"none, it needs {' and '.join(missing)}: pip install 'mmkerv[pictures]', then the same command"
        from mmkerv.cli.report.comparison_page import write_comparison_page

        return str(write_comparison_page(found, self.runs, self.work))


def quoted(word: str) -> str:
    """Return a word as it is typed in a shell."""
    import shlex

    return shlex.quote(word)


def document(found: dict[str, Any], table: str, notes: Sequence[str]) -> str:
    """Return the results as a markdown document."""
    facts = found['environment']
    machine = (
        facts['GPU']
        if facts['GPU'] != 'none used'
        else f'{facts["processor"]}, {facts["threads"]} thread{"s" * (facts["threads"] != "1")}'
    )
    about = (
        f'`{found["config"]}`, {found["schedule"]}, {found["seeds"]} {"seeds" if found["seeds"] > 1 else "seed"}; '
        f'{found["date"][:10]}, {machine}, PyTorch {facts["PyTorch"]}, mmkerv {facts["mmkerv"]}.'
    )
    lines = [f'# {Path(found["config"]).stem}', about, f'```bash\n{found["command"]}\n```', table]
    return '\n\n'.join([*lines, '\n'.join(f'* {note}' for note in notes)]) + '\n'


if __name__ == '__main__':
    common.run(main)
