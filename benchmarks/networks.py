"""Time and peak memory of a training step, and of inference, of whole networks, in one process.

The models are those of configs/, with synthetic inputs of the given batch and size. Each form is compared with the
plain network or with the reference in the table below. Ratios are computed within a repeat (see timing.py).

    python benchmarks/networks.py resnet50 --batch 16
    python benchmarks/networks.py resnet50 --inference
    python benchmarks/networks.py retinanet_r50 --size 640 --forms coc
    python benchmarks/networks.py convnext_tiny --operators              every operator that it takes
    python benchmarks/networks.py resnet50 --operators dcls kerv:kernel=gaussian --inference
"""

import argparse
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Form(NamedTuple):
    """Network to measure: its config, changes of it, and the form that it is compared with.

    Args:
        config: file in configs/, without its ending, or an upstream one such as ``mmpretrain::FILE``.
        conv_cfg: changes of the backbone's ``conv_cfg``.
        where: ``where`` of the backbone.
        folded: whether the operators are folded.
        reference: name of the form that it is compared with.
        operator: operator placed in the whole network, as ``--operator`` of tools/train.py takes it.
    """

    config: str
    conv_cfg: dict[str, Any] = {}
    where: dict[str, Any] | None = None
    folded: bool = False
    reference: str = 'plain'
    operator: str = ''


# Separable 7x7 in stem and first stage, against the same network of ordinary depthwise 7x7 and 1x1 convolutions.
_CK = Form('imagenet/resnet50_ck', where={'stages': (1,)}, reference='ck folded')
NETWORKS = {
    'resnet50': {
        'plain': Form('imagenet/resnet50_nesterov'),
        'coc': Form('imagenet/resnet50_coc'),
        'coc recompute': Form('imagenet/resnet50_coc', {'recompute': True}),
        'orth': Form('imagenet/resnet50_orth'),
        'stnd': Form('imagenet/resnet50_stnd'),
        'kerv stem': Form('imagenet/resnet50_kerv'),
        'ck folded': _CK._replace(folded=True, reference='plain'),
        'ck': _CK,
    },
    'hrnet18': {
        'plain': Form('imagenet/hrnet18'),
        'coc': Form('imagenet/hrnet18_coc'),
        'orth': Form('imagenet/hrnet18_orth'),
    },
    'shufflenet_v2': {'plain': Form('imagenet/shufflenet_v2'), 'coc': Form('imagenet/shufflenet_v2_coc')},
    'mobilenet_v3_small': {
        'plain': Form('imagenet/mobilenet_v3_small'),
        'coc': Form('imagenet/mobilenet_v3_small_coc'),
    },
    'convnext_tiny': {'plain': Form('mmpretrain::convnext/convnext-tiny_32xb128_in1k.py')},
    'retinanet_r50': {
        'plain': Form('retinanet_r50'),
        'coc': Form('retinanet_r50_coc'),
        'orth': Form('retinanet_r50_orth'),
    },
    'fcn_r50d8': {
        'plain': Form('fcn_r50d8_voc'),
        'coc': Form('fcn_r50d8_coc_voc'),
        'orth': Form('fcn_r50d8_orth_voc'),
    },
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    from record import add_arguments, add_numeric_arguments

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('network', choices=NETWORKS)
    parser.add_argument('--forms', nargs='+', help='forms of the network; default: all')
    parser.add_argument(
        '--operators',
        nargs='*',
        metavar='OPERATOR',
        help='in place of forms: operators in the whole plain network, as --operator of tools/train.py; none: all',
    )
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--size', type=int, default=224, help='height and width of the images')
    parser.add_argument('--inference', action='store_true', help='time inference: as trained, kernels frozen, folded')
    parser.add_argument('--compile', action='store_true', help='compile the backbones, plain and operator')
    only = parser.add_mutually_exclusive_group()
    only.add_argument('--no-memory', action='store_true', help='do not measure peak memory')
    only.add_argument('--only-memory', action='store_true', help='do not measure time')
    add_numeric_arguments(parser)
    add_arguments(parser, repeats=11)
    args = parser.parse_args()
    if args.forms and args.operators is not None:
        parser.error('--forms and --operators: give one of them')
    unknown = [form for form in args.forms or () if form not in NETWORKS[args.network]]
    if unknown:
        parser.error(f'--forms: {args.network} has {", ".join(NETWORKS[args.network])}, got {unknown[0]!r}')
    return args


def main() -> None:
    """Measure, print a table, write JSON."""
    args = parse_args()

    from mmengine.logging import MMLogger
    from record import Record

    from mmkerv.errors import ArgumentError

    # Optimizers log a line for each parameter with rules of its own.
    MMLogger.get_current_instance().setLevel('WARNING')
    record = Record('networks', args, compiled=args.compile)
    if args.operators is None:
        measure(chosen_forms(args), args, record)
    # An operator at a time: twenty networks with their optimizers take too much memory.
    for operator in operators(args.operators):
        try:
            measure(operator_forms(operator, args), args, record)
        except ArgumentError as error:
            record.note(f'{args.network}, {operator}: {str(error).partition(";")[0]}')
    record.write()


def measure(forms: dict[str, Form], args: argparse.Namespace, record: Any) -> None:
    """Measure forms in turn, and add the results."""
    import torch
    from timing import CONTROL, Ratio, interleaved, ratio

    from mmkerv.analysis.memory import peak_bytes

    with ExitStack() as stack:
        steps = {name: work(form, name, args, stack) for name, form in forms.items()}
        case = f'{args.network} b{args.batch} {args.size}'
        if not args.only_memory:
            times = interleaved(steps, args.repeats)
            control = ratio(times, CONTROL, 'plain').median
            pass_name = 'inference' if args.inference else 'step'
            for name, form in forms.items():
                seconds = statistics.median(times[name])
                relative = ratio(times, name, form.reference)
                record.add(f'{case}, {pass_name}', name, relative, control, seconds=seconds, against=form.reference)
        if not args.no_memory:
            device = torch.device(args.device)
            peaks = {name: peak_bytes(step, device) for name, step in steps.items()}
            for name, form in forms.items():
                share = peaks[name] / peaks[form.reference]
                record.add(
                    f'{case}, memory', name, Ratio(share, share, share), bytes=peaks[name], against=form.reference
                )


def operators(given: list[str] | None) -> list[str]:
    """Return the operators to measure: those given, or all that can replace a convolution of a network."""
    from mmkerv.engine.config.operator_spec import operator_names, parse_operator

    if given is None:
        return []
    for operator in given:
        parse_operator(operator, flag='--operators')
    return given or list(operator_names())


def operator_forms(operator: str, args: argparse.Namespace) -> dict[str, Form]:
    """Return the forms to measure of one operator in the whole plain network."""
    from timing import CONTROL

    from mmkerv import describe
    from mmkerv.engine.config.operator_spec import parse_operator

    plain = NETWORKS[args.network]['plain']
    placed = plain._replace(operator=operator)
    forms = {'plain': plain, CONTROL: plain, operator: placed}
    if args.inference:
        forms[f'{operator} frozen'] = placed
        if describe(parse_operator(operator).operator).folds.startswith('into'):
            forms[f'{operator} folded'] = placed._replace(folded=True)
    return forms


def chosen_forms(args: argparse.Namespace) -> dict[str, Form]:
    """Return the forms to measure: the plain network and its control first, references before their users."""
    from timing import CONTROL

    known = NETWORKS[args.network]
    names = args.forms or list(known)
    wanted = {'plain', *names, *(known[name].reference for name in names)}
    forms = {'plain': known['plain'], CONTROL: known['plain']}
    for name, form in known.items():
        if name not in wanted or name == 'plain':
            continue
        forms[name] = form
        if args.inference and not form.folded and has_operators(form):
            forms |= {f'{name} frozen': form, f'{name} folded': form._replace(folded=True, reference='plain')}
    return forms


def has_operators(form: Form) -> bool:
    """Return whether the backbone of a form has operators of mmkerv."""
    backbone = network_config(form).model.backbone
    return str((backbone.get('conv_cfg') or {}).get('type')).startswith('mmkerv.')


def network_config(form: Form) -> Any:
    """Return the config of a form's network."""
    if '::' in form.config:
        from mmengine.hub import get_config

        return get_config(form.config)
    from mmkerv.engine.config.read import load_config

    return load_config(str(ROOT / 'configs' / f'{form.config}.py'))


def work(form: Form, name: str, args: argparse.Namespace, stack: ExitStack) -> Callable[[], object]:
    """Return a function that runs one training step, or inference, of a form."""
    import torch
    from mmengine.model import revert_sync_batchnorm
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import HOOKS, MODELS, init_default_scope

    from mmkerv import convert
    from mmkerv.engine.config.operator_spec import parse_operator
    from mmkerv.ops import frozen_kernels, switch_to_deploy
    from mmkerv.ops.core.generated import uncounted_evaluations

    cfg = network_config(form)
    init_default_scope(cfg.default_scope)
    backbone = cfg.model.backbone
    cfg.model.pop('pretrained', None)
    backbone.pop('init_cfg', None)
    if form.conv_cfg:
        backbone.conv_cfg.update(form.conv_cfg)
    if form.where is not None:
        backbone.where = form.where
    preprocessor = cfg.model.pop('data_preprocessor', None)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    if form.operator:
        spec = parse_operator(form.operator)
        convert(model, dict(type=f'mmkerv.{spec.operator}', **spec.options), spec.where or None)
    model.to(args.device)
    if form.folded:
        switch_to_deploy(model)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    model.to(memory_format=layout)
    if args.compile:
        model.backbone = torch.compile(model.backbone)
    inputs, samples = batch(cfg.default_scope, preprocessor or cfg.data_preprocessor, args)
    inputs = inputs.contiguous(memory_format=layout)
    kind = torch.device(args.device).type

    def autocast():
        return torch.autocast(kind, getattr(torch, args.amp or 'float32'), enabled=args.amp is not None)

    if args.inference:
        model.eval()
        if name.endswith(' frozen'):
            stack.enter_context(frozen_kernels(model))
        stack.enter_context(uncounted_evaluations(model))

        def infer() -> None:
            with torch.inference_mode(), autocast():
                model(inputs, samples, mode='tensor')

        return infer

    for hook in cfg.get('custom_hooks') or []:
        if hook.type == 'mmkerv.OrthogonalityHook':
            HOOKS.build(hook).before_train(SimpleNamespace(model=model))
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    # Constant weights: a network that diverges on noise would be timed with infinite and denormal numbers.
    for group in optimizer.param_groups:
        group['lr'] = 0.0
    model.train()

    def train() -> None:
        with autocast():
            loss, _ = model.parse_losses(model(inputs, samples, mode='loss'))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train


def batch(scope: str, preprocessor: dict, args: argparse.Namespace):
    """Return synthetic inputs (N, 3, H, W) and data samples of a library."""
    import torch

    size = (args.size, args.size)
    inputs = torch.randn(args.batch, 3, *size, device=args.device)
    if scope == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        samples = demo_mm_inputs(args.batch, [[3, *size]] * args.batch, num_classes=80)['data_samples']
        for sample in samples:
            sample.set_metainfo({'batch_input_shape': size, 'pad_shape': size})
        return inputs, [sample.to(args.device) for sample in samples]
    if scope == 'mmseg':
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        labels = torch.randint(21, (args.batch, 1, *size), device=args.device)
        return inputs, [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    from mmpretrain.structures import DataSample

    labels = torch.randint(preprocessor['num_classes'], (args.batch,)).tolist()
    return inputs, [DataSample().set_gt_label(label).to(args.device) for label in labels]


if __name__ == '__main__':
    main()
