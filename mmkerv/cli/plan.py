"""Say what a training will do and cost, and check that it will run: ``mmkerv plan CONFIG [--operator coc]``."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmkerv.cli import common
from mmkerv.cli.network import network_files

if TYPE_CHECKING:
    from mmengine.config import Config

    from mmkerv.analysis.plan.cost import Counted
    from mmkerv.analysis.plan.preflight import Preflight
    from mmkerv.analysis.plan.trial_step import StepCost


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the flags are those of train.py, as far as they change the training."""
    parser = argparse.ArgumentParser(
        description='Say what becomes of each convolution, what a training step costs next to the plain network, and '
        'how long the training takes; and check config, data, weights, classes and one training step. Nothing is '
        'written, and the exit status is 1 if something is wrong'
    )
    parser.add_argument('config', help='config file, or the work folder of a training')
    common.add_operator(parser)
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    common.add_changes(parser)
    parser.add_argument(
        '--timed-iters',
        type=int,
        default=3,
        metavar='N',
        help='training steps that are timed, fewer if they take more than a minute; 0 for none (%(default)s)',
    )
    parser.add_argument('--random-images', action='store_true', help='take random images, without the data')
    common.add_cfg_options(parser)
    common.add_trust(parser)
    args = parser.parse_args(argv)
    common.check_changes(parser, args)
    if args.timed_iters < 0:
        parser.error(f'--timed-iters must be >= 0, got {args.timed_iters}')
    args.config = network_files(args.config, needed=False)[0]
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Check, then count and time what could be built."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine', 'mmcv')
    from mmkerv.engine.config.patches import apply_patches
    from mmkerv.engine.config.prepare import use_amp
    from mmkerv.engine.config.read import load_config

    cfg = load_config(args.config, args.cfg_options, check=False)
    common.change(cfg, args)
    common.place_operator(cfg, args)
    if args.amp:
        use_amp(cfg)
    apply_patches(cfg.get('default_scope'), args.trust_checkpoint)
    checked = preflight(cfg, args, max(1, args.timed_iters), args.random_images)
    if checked.model is not None:
        print()
        describe(cfg, checked)
        tell_costs(cfg, checked, args)
    if faults := checked.faults:
        sys.exit(f'error: {len(faults)} fault{"s" * (len(faults) > 1)}, see above')


def preflight(cfg: 'Config', args: argparse.Namespace, batches: int = 1, random: bool = False) -> 'Preflight':
    """Check a training, and print each result as it comes."""
    from mmkerv.analysis.plan.preflight import Preflight

    def tell(check: Any) -> None:
        print(check, flush=True)

    return Preflight(cfg, batches, random, bool(args.operator), args.trust_checkpoint, tell).run()


def describe(cfg: 'Config', checked: 'Preflight') -> None:
    """Print what becomes of the convolutions, how the operators start, and what the optimizer does with them."""
    from mmkerv.engine.hooks.operator_report_hook import random_among_loaded, starting_lines
    from mmkerv.engine.optim.operator_rules import operator_settings
    from mmkerv.models.inventory import inventory

    model = checked.model
    found = inventory(model)
    print(f'mmkerv: {found}')
    for line in starting_lines(found, checked.loaded):
        print(line)
    if warning := random_among_loaded(model, found.operators, checked.loaded):
        print(f'warning: {warning}')
    if checked.wrapper is not None and (settings := operator_settings(model, checked.wrapper)):
        print(f"mmkerv: the operators' own parameters in the optimizer: {'; '.join(map(str, settings))}")


def tell_costs(cfg: 'Config', checked: 'Preflight', args: argparse.Namespace) -> None:
    """Print parameters, multiply-adds, time and memory of a step next to the plain network's, and the time of all."""
    import logging

    from mmkerv.analysis.plan.cost import counted, iterations, loader_workers, plain_model
    from mmkerv.analysis.plan.preflight import fault_of, quiet
    from mmkerv.analysis.plan.trial_step import step_costs, timing_seconds, trial_optimizer
    from mmkerv.deploy.config import deploy_config
    from mmkerv.models.inventory import inventory
    from mmkerv.utils import duration

    device = next(checked.model.parameters()).device
    names, models = ['with operators'], [checked.model]
    if inventory(checked.model).operators and (plain := plain_model(cfg)) is not None:
        names, models = ['plain', *names], [plain, *models]
    else:
        names = ['network']
    counts = [counted(cfg, model.cpu()) for model in models]
    steps: list[StepCost | None] = [None] * len(models)
    if args.timed_iters and checked.wrapper is not None:
        configs = [cfg if model is checked.model else deploy_config(cfg, host_shapes=True) for model in models]
        about = duration(timing_seconds(checked.step_seconds, len(models), args.timed_iters))
        print(f'timing training steps, about {about}; --timed-iters 0 leaves this out', flush=True)
        try:
            with quiet(logging.ERROR):
                trained = [
                    (model.to(device).train(), trial_optimizer(config, model)) for model, config in zip(models, configs)
                ]
                steps = list(step_costs(trained, checked.batches, args.timed_iters))
        # Memory may be short, or a network of another library not bear random weights; the rest is still worth reading.
        except Exception as error:
            print(f'steps not timed: {fault_of(error)}')
    print(f'\n{cost_table(names, counts, steps)}')
    for line in counted_on(counts, steps, device, checked.has_data):
        print(line)
    total = iterations(cfg, checked.iterations, args.max_iters) if cfg.get('train_cfg') else None
    if steps[-1] is None or total is None:
        why = 'no step was timed' if steps[-1] is None else 'the iterations of an epoch are unknown without data'
        print(f'time of the training: unknown, {why}')
        return
    seconds, workers = steps[-1].seconds, loader_workers(cfg.get('train_dataloader'))
    loading = checked.loading_seconds / max(1, workers)
    # Without workers, each batch is read between two steps.
    iteration = max(seconds, loading) if workers else seconds + loading
    text = f'{total:,} iterations in {duration(total * iteration)}, without evaluations'
    if loading > seconds:
        noun = 'worker' if workers == 1 else 'workers'
        text += (
            f'; reading the data is slower than the step: {checked.loading_seconds:.3g} s a batch, with '
            f'{workers or "no"} {noun}; more num_workers help'
        )
    print(f'time of the training: {text}')


def cost_table(names: Sequence[str], counts: 'Sequence[Counted]', steps: 'Sequence[StepCost | None]') -> str:
    """Return the costs as a table for a terminal: a column for each network, and their ratio."""
    from prettytable import PrettyTable

    from mmkerv.analysis.comparison.results import short

    folded = len(names) > 1
    rows: list[tuple[str, list[Any], Any]] = [
        ('parameters', [c.counts and c.counts.parameters for c in counts], '{:,}'.format),
        *([('parameters, folded', [c.counts and c.counts.folded_parameters for c in counts], '{:,}'.format)] * folded),
        ('multiply-adds of an image', [c.counts and c.counts.image for c in counts], short),
        *([('of generating the kernels', [c.counts and c.counts.kernels for c in counts], short)] * folded),
        *([('of an image, folded', [c.counts and c.counts.folded for c in counts], short)] * folded),
        ('seconds of a training step', [step and step.seconds for step in steps], '{:.3g}'.format),
        ('memory of a training step', [step and step.peak_bytes / 2**20 for step in steps], '{:,.0f} MiB'.format),
    ]
    table = PrettyTable(['', *names, *(['ratio'] * folded)])
    table.align = 'r'
    table.align[''] = 'l'
    for label, values, form in rows:
        ratio = f'{values[-1] / values[0]:.2f}' if values[0] and values[-1] is not None else '-'
        table.add_row([label, *('-' if v is None else form(v) for v in values), *([ratio] * folded)])
    return str(table)


def counted_on(
    counts: 'Sequence[Counted]', steps: 'Sequence[StepCost | None]', device: Any, has_data: bool
) -> list[str]:
    """Return what the numbers of the table were measured on."""
    import torch

    lines = [f'not counted: {c.why_not}' for c in counts if c.counts is None]
    if counts[-1].shape:
        lines.append('multiply-adds: an image of {} x {}'.format(*counts[-1].shape))
    if steps[-1] is not None:
        where = (
            f'cpu, {torch.get_num_threads()} threads' if device.type == 'cpu' else torch.cuda.get_device_name(device)
        )
        lines.append(
            f'steps: median of {steps[-1].timed} on {where}, {"batches of the data" if has_data else "random images"}; '
            'memory: activations and gradients at the peak'
        )
    return lines


if __name__ == '__main__':
    common.run(main)
