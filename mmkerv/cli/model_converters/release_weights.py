"""Publish small networks: ``release_weights.py WORK_DIR ... --out FOLDER`` writes weights, configs, cards, an index."""

import argparse
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkerv.cli import common
from mmkerv.cli.network import network_files

if TYPE_CHECKING:
    from mmkerv.analysis.release.network import Network, Source

FORMS = ('trained', 'folded')
MEGABYTE = 1_000_000
# Of a name in the folder; file systems take 255 characters of a file's name, with hash and suffix.
LONGEST_NAME = 120
LARGEST_SHOWN = 3


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Publish small trained networks: a folder with weights, trained and folded, without optimizer and '
        'without anything of this machine, their configs, a card for each, and an index with the hash of every file, '
        'from which mmkerv.load reads'
    )
    parser.add_argument(
        'work_dirs',
        nargs='+',
        metavar='WORK_DIR',
        help='work folders of trainings or of comparisons (mmkerv compare): the best network of a training, else the '
        'last, and the last of each finished operator of a comparison',
    )
    parser.add_argument('--out', required=True, metavar='FOLDER', help='folder to write; it must not exist yet')
    parser.add_argument(
        '--operators', nargs='+', metavar='SPEC', help='of comparisons, only these, such as plain coc; default all'
    )
    parser.add_argument(
        '--seeds', nargs='+', type=int, metavar='N', help='of comparisons, these; default the lowest that has finished'
    )
    parser.add_argument('--forms', nargs='+', choices=FORMS, default=list(FORMS), help='default trained folded')
    parser.add_argument(
        '--max-mb', type=float, default=5.0, metavar='N', help='largest size of the folder, in 10^6 bytes; default 5'
    )
    parser.add_argument(
        '--half',
        action='store_true',
        help='store weights in float16 where the metric stays the same; others stay float32',
    )
    parser.add_argument(
        '--no-test', action='store_true', help='do not evaluate what is published; the cards then say so'
    )
    parser.add_argument('--license', metavar='NAME', help='licence that the cards state, such as Apache-2.0')
    common.add_cfg_options(parser)
    common.add_trust(parser)
    args = parser.parse_args(argv)
    if args.half and args.no_test:
        parser.error('--half compares the metrics of both precisions: leave out --no-test')
    if not args.max_mb > 0:
        parser.error(f'--max-mb must be > 0, got {args.max_mb:g}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Read, fold, evaluate, write."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from mmkerv.analysis.release.network import measure, network
    from mmkerv.engine.config.patches import apply_patches

    out = Path(args.out)
    refuse_existing(out)
    apply_patches(trust=args.trust_checkpoint)
    networks: list[Network] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, source in enumerate(sources(args)):
            print(f'{source.name}: {source.checkpoint}', flush=True)
            folder = Path(scratch, 'folded', str(number))
            networks.append(network(source, tuple(args.forms), folder, args.cfg_options, args.trust_checkpoint))
        # Before what takes long: a folder that is too large now stays so.
        sizes = {
            f'{found.source.name}_{kind}': len(form.checkpoint(args.half))
            for found in networks
            for kind, form in found.forms.items()
        }
        refuse_large(args.max_mb, sizes, args.half)
        if not args.no_test:
            measure(networks, Path(scratch, 'test'), args.half)
    write(networks, out, args)
    for file in sorted(out.iterdir()):
        print(f'{file.stat().st_size:>10,}  {file}')
    print(f'{sum(file.stat().st_size for file in out.iterdir()) / MEGABYTE:.2f} MB in {out}')


def refuse_existing(out: Path) -> None:
    """Refuse a folder that holds something."""
    from mmkerv.errors import ConfigError

    if not out.name:
        raise ConfigError(f'--out {str(out)!r} is the current folder; give one to make, such as weights')
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f'--out {str(out)!r} exists already; remove it, or give another folder')


def refuse_large(limit: float, sizes: dict[str, int], is_half: bool) -> None:
    """Refuse files that are larger together than the limit, in 10^6 bytes."""
    from mmkerv.errors import ConfigError

    total = sum(sizes.values())
    if total <= limit * MEGABYTE:
        return
    largest = sorted(sizes, key=sizes.get, reverse=True)[:LARGEST_SHOWN]
    shown = ', '.join(f'{name} {sizes[name] / MEGABYTE:.2f}' for name in largest)
    raise ConfigError(
        f'--max-mb {limit:g}: the folder would have {total / MEGABYTE:.2f} MB, of which the largest are {shown}; leave '
        f'some out (--operators, --forms), {"" if is_half else "store float16 (--half), "}or raise --max-mb. Nothing '
        'was written'
    )


def sources(args: argparse.Namespace) -> 'list[Source]':
    """Return the networks that the command line names.

    Raises:
        ConfigError: if two have one name, or an operator or seed is in none of the folders.
        FileNotFoundError: if a folder holds no finished training.
    """
    from mmkerv.errors import ConfigError

    found: dict[str, Source] = {}
    for folder in args.work_dirs:
        for source in sources_of(Path(folder), args.operators, args.seeds):
            other = found.setdefault(source.name.lower(), source)
            if other is not source:
                raise ConfigError(
                    f'{other.checkpoint} and {source.checkpoint} would both be called {source.name!r}; publish them '
                    'in separate folders, or rename the config of one'
                )
    return list(found.values())


def sources_of(folder: Path, operators: Sequence[str] | None, seeds: Sequence[int] | None) -> 'Iterator[Source]':
    """Yield the networks of a work folder."""
    from mmkerv.analysis.comparison.record import RECORD_FILE

    if not folder.is_dir():
        raise FileNotFoundError(f'{str(folder)!r} is no folder; give the work folder of a training or a comparison')
    files = [folder / RECORD_FILE] if (folder / RECORD_FILE).is_file() else []
    files = files or sorted([*folder.glob(f'seed_*/{RECORD_FILE}'), *folder.glob(f'*/seed_*/{RECORD_FILE}')])
    if files or (folder / 'comparison.json').is_file():
        yield from compared(folder, [file.parent for file in files], operators, seeds)
    else:
        yield trained(folder)


def compared(
    folder: Path, runs: Sequence[Path], operators: Sequence[str] | None, seeds: Sequence[int] | None
) -> 'Iterator[Source]':
    """Yield the networks of the finished runs of a comparison, the plain ones first."""
    from mmkerv.analysis.comparison.record import DONE, Run, main_metric
    from mmkerv.analysis.comparison.variant import parse_variant
    from mmkerv.analysis.release.network import Source
    from mmkerv.errors import ConfigError
    from mmkerv.ops.core.arguments import did_you_mean

    done: dict[str, dict[int, tuple[Run, dict[str, Any]]]] = {}
    for work in runs:
        record = Run(None, 0, work).record()
        if record.get('status') != DONE:
            continue
        run = Run(parse_variant(record['operator']), record['seed'], work)
        if run.checkpoint:
            done.setdefault(run.variant.spec, {})[run.seed] = run, record
    if not done:
        raise FileNotFoundError(f'{str(folder)!r} holds no finished training; wait for the comparison, or finish it')
    for spec in operators or ():
        if spec not in done:
            raise ConfigError(
                f'--operators {spec!r} has no finished run in {str(folder)!r}{did_you_mean(spec, done)} It has '
                f'{", ".join(done)}'
            )
    for spec in sorted(done, key=lambda text: (not text.startswith('plain'), text)):
        if operators and spec not in operators:
            continue
        chosen = [seed for seed in sorted(done[spec]) if seed in (seeds or [min(done[spec])])]
        if not chosen:
            raise ConfigError(
                f'--seeds {" ".join(map(str, seeds))}: {spec} has none of them finished in {str(folder)!r}; it has '
                f'{", ".join(map(str, sorted(done[spec])))}'
            )
        metric = main_metric([record['metrics'] for _, record in done[spec].values()])
        values = {seed: record['metrics'].get(metric) for seed, (_, record) in done[spec].items()}
        for seed in chosen:
            run, record = done[spec][seed]
            config = config_of(run.folder)
            name = network_name(f'{config.stem}_{run.variant.folder}' + (f'_seed{seed}' if len(chosen) > 1 else ''))
            known = {number: value for number, value in values.items() if value is not None}
            yield Source(name, config, run.checkpoint, spec, record['metrics'], known, record['date'][:10])


def trained(folder: Path) -> 'Source':
    """Return the network of a training's work folder."""
    from datetime import datetime, timezone

    from mmkerv.analysis.comparison.record import metrics
    from mmkerv.analysis.logs import log_files, read_run
    from mmkerv.analysis.release.network import Source

    config, checkpoint = map(Path, network_files(str(folder)))
    date = datetime.fromtimestamp(checkpoint.stat().st_mtime, timezone.utc).date().isoformat()
    # Of another checkpoint than the last, the last evaluation tells nothing.
    is_last = not checkpoint.name.startswith('best_')
    has_log = bool(log_files(folder))
    if not has_log:
        print(f'{folder}: no log, so the card has no metric of the training')
    found = metrics(read_run(folder)) if is_last and has_log else {}
    return Source(network_name(config.stem), config, checkpoint, None, found, {}, date)


def config_of(folder: Path) -> Path:
    """Return the config that a run has written into its folder."""
    from mmkerv.work_folder import configs_of

    files = configs_of(folder)
    if not files:
        raise FileNotFoundError(f'{str(folder)!r} holds no config of a run (NAME.py)')
    return files[0]


def network_name(text: str) -> str:
    """Return a name that is one of a file everywhere, and stays as it is when it is uploaded.

    Example:
        >>> network_name('resnet20_coc-super_init=kaiming'), len(network_name('a' * 300))
        ('resnet20_coc-super_init-kaiming', 120)
    """
    import hashlib

    name = re.sub(r'[^A-Za-z0-9._-]+', '-', text).strip('-.') or 'network'
    if len(name) <= LONGEST_NAME:
        return name
    return f'{name[: LONGEST_NAME - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}'


def write(networks: 'Sequence[Network]', out: Path, args: argparse.Namespace) -> None:
    """Write the folder: whole, or not at all."""
    from datetime import datetime, timezone

    from mmkerv.analysis.machine import environment
    from mmkerv.analysis.release.public import refuse_private
    from mmkerv.deploy.weights import load
    from mmkerv.deploy.weights_index import INDEX, read_index, write_index

    facts = environment()
    machine = ('processor', 'threads', 'GPU', 'system', 'distribution')
    versions = ', '.join(f'{label} {version}' for label, version in facts.items() if label not in machine)
    known = {'date': datetime.now(timezone.utc).date().isoformat(), 'license': args.license, 'versions': versions}
    with staged(out) as folder:
        entries = {found.source.name: write_network(found, folder, known) for found in networks}
        write_index(folder, entries, known)
        refuse_private(read_index(folder), INDEX)
        refuse_large(args.max_mb, {file.name: file.stat().st_size for file in folder.iterdir()}, args.half)
        for found in networks:
            for kind in found.forms:
                load(found.source.name, folder, folded=kind == FORMS[1])


def write_network(network: 'Network', folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write the files of a network and return its entry in the index."""
    from mmkerv.analysis.release.card import card, metric_of
    from mmkerv.analysis.release.public import refuse_private
    from mmkerv.deploy.weights_index import FOLDED, File
    from mmkerv.engine.scope import library_of

    name, counts = network.source.name, network.cost.complexity
    files, forms = {}, {}
    for kind, form in network.forms.items():
        stem = f'{name}_{kind}' if kind == FOLDED else name
        content = form.checkpoint()
        digest = File.of('', content).sha256
        config = put(folder, f'{stem}.py', form.text.encode())
        weights = put(folder, f'{stem}-{digest[:8]}.pth', content)
        files[kind] = config, weights
        forms[kind] = {
            'config': config._asdict(),
            'weights': weights._asdict(),
            'dtype': 'float16' if form.half else 'float32',
            'metrics': form.metrics,
            'parameters': counts and (counts.folded_parameters if kind == FOLDED else counts.parameters),
        }
    text = card(network, files, facts)
    refuse_private(text, f'the card of {name}')
    return {
        'task': network.task,
        'library': library_of(network.cfg),
        'data': {'name': network.data, **network.images},
        'operator': network.operator,
        'seed': (network.cfg.get('randomness') or {}).get('seed'),
        'metric': metric_of(network),
        'kept': network.kept,
        'card': put(folder, f'{name}.md', text.encode())._asdict(),
        'forms': forms,
    }


def put(folder: Path, name: str, content: bytes) -> Any:
    """Write a file and return its record."""
    from mmkerv.deploy.weights_index import File

    (folder / name).write_bytes(content)
    return File.of(name, content)


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield a folder beside ``out`` that becomes ``out`` if the block raises nothing, and is removed otherwise."""
    from mmkerv.engine.checkpoint.atomic_write import with_advice

    folder = out.with_name(f'.{out.name}.{os.getpid()}.tmp')
    try:
        try:
            folder.mkdir(parents=True)
            yield folder
            # An empty folder of that name is replaced.
            os.replace(folder, out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise with_advice(error, out) from error


if __name__ == '__main__':
    common.run(main)
