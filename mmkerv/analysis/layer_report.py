"""Layer by layer: what a network is made of, what it costs and sees, and what other forms of it would cost."""

import copy
from typing import Any, NamedTuple

import torch
from mmengine.analysis import FlopAnalyzer
from torch import Tensor, nn

from mmkerv.analysis.conv_forms import Cost, Shape, forms
from mmkerv.analysis.receptive_field import CONVOLUTIONS, followed
from mmkerv.deploy.model_outputs import RawOutputs, sample_inputs
from mmkerv.errors import FoldError
from mmkerv.ops import frozen_kernels
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.generated import GeneratedKernel, relative_change

LAYERS = (*CONVOLUTIONS, nn.Linear)


class Layer(NamedTuple):
    """One convolution, operator or linear layer.

    Args:
        name: in the model.
        operator: its class.
        kernel: size, empty for a linear layer.
        stride: of the kernel.
        channels: of input and output.
        groups: blocks of channels.
        output: size of the first output, without the channels.
        calls: how often an image passes it.
        parameters: its own.
        macs: multiply-adds of an image, generating the kernel not counted.
        field: theoretical receptive field, ``None`` where there is none (behind cut-out regions, in linear layers).
        folds_to: what folding makes of it; empty for a plain layer.
        reason: why it does not fold.
        association: |K - W| / |W| of a generated kernel and its basic one, if it has one.
        forms: what other forms would cost.

    Example:
        >>> row = Layer('fc', 'Linear', (), (), (8, 2), 1, (), 1, 18, 16, None, '', '', None, {})
        >>> row.macs
        16
    """

    name: str
    operator: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    channels: tuple[int, int]
    groups: int
    output: tuple[int, ...]
    calls: int
    parameters: int
    macs: int
    field: tuple[float, ...] | None
    folds_to: str
    reason: str
    association: float | None
    forms: dict[str, Cost]


class Report(NamedTuple):
    """What a network costs, layer by layer.

    Args:
        shape: of the image.
        layers: in the order they are called.
        other: what the other layers cost: norms, attention, parameters that no layer of the list holds.
        kernels: multiply-adds of generating the kernels, once a training step.

    Example:
        >>> Report((32, 32), [], Cost(10, 100), 0).total
        Cost(weights=10, macs=100)
    """

    shape: tuple[int, int]
    layers: list[Layer]
    other: Cost
    kernels: int

    @property
    def total(self) -> Cost:
        """Parameters and multiply-adds of the whole network, those of :func:`mmkerv.analysis.complexity.complexity`."""
        return sum((Cost(layer.parameters, layer.macs) for layer in self.layers), self.other)

    def total_as(self, form: str) -> Cost:
        """Return the whole network's cost if every layer that has a form were of that form, without its bias.

        Example:
            >>> Report((32, 32), [], Cost(10, 100), 0).total_as('stacked 3x3')
            Cost(weights=10, macs=100)
        """
        costs = (layer.forms.get(form, Cost(layer.parameters, layer.macs)) for layer in self.layers)
        return sum(costs, self.other)


@torch.no_grad()
def layer_report(model: nn.Module, shape: tuple[int, int]) -> Report:
    """Report on every convolution, operator and linear layer that an image passes.

    Operations are counted as :func:`mmkerv.analysis.complexity.complexity` counts them, so the totals are its totals.

    Args:
        model: in evaluation mode; it is left as it is.
        shape: height and width of the image.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> report = layer_report(nn.Sequential(CoCConv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval(), (6, 6))
        >>> [(layer.operator, layer.folds_to, layer.macs, layer.field) for layer in report.layers]
        [('CoCConv2d', 'Conv2d 3x3', 3456, (3, 3)), ('Conv2d', '', 512, (3, 3))]
    """
    inputs, samples = next(sample_inputs(model, shape, None))
    raw = RawOutputs(model, samples).eval()
    passed: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def note(module: nn.Module, args: tuple, output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            passed.setdefault(module, []).append((args[0].shape, output.shape))

    named = {module: name for name, module in model.named_modules() if isinstance(module, LAYERS)}
    with frozen_kernels(model):
        # Hooks of its own would be called again while operations are counted.
        handles = [module.register_forward_hook(note) for module in named]
        try:
            with followed(model, inputs) as fields:
                raw(inputs)
        finally:
            for handle in handles:
                handle.remove()
        counted = _counted(raw, inputs)
    outer = [m for m in passed if not any(named[m].startswith(f'{named[o]}.') for o in passed if isinstance(o, ConvNd))]
    layers = [_layer(m, named[m], passed[m], counted[f'model.{named[m]}'.rstrip('.')], fields.get(m)) for m in outer]
    held = {id(p): p.numel() for module in outer for p in module.parameters()}
    own = {id(p): p.numel() for p in model.parameters()}
    seen: set[int] = set()
    layers = [row._replace(parameters=_first_time(m, seen)) for m, row in zip(outer, layers)]
    other = Cost(sum(own.values()) - sum(held.values()), counted[''] - sum(row.macs for row in layers))
    generated = any(isinstance(m, GeneratedKernel) for m in model.modules())
    return Report(shape, layers, other, _counted(raw, inputs)[''] - counted[''] if generated else 0)


def _counted(network: nn.Module, inputs: Tensor) -> Any:
    analyzer = FlopAnalyzer(network, (inputs,))
    return analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_module()


def _first_time(module: nn.Module, seen: set[int]) -> int:
    """Number of the module's parameters that no layer before it has."""
    new = [p for p in module.parameters() if id(p) not in seen]
    seen.update(map(id, new))
    return sum(p.numel() for p in new)


def _layer(module: nn.Module, name: str, passed: list, macs: float, field: Any) -> Layer:
    linear = isinstance(module, nn.Linear)
    folds_to, reason = _folds_to(module) if isinstance(module, ConvNd) else ('', '')
    kernel = () if linear else tuple(module.kernel_size)
    return Layer(
        name=name,
        operator=type(module).__name__,
        kernel=kernel,
        stride=() if linear else tuple(module.stride),
        channels=(module.in_features, module.out_features) if linear else (module.in_channels, module.out_channels),
        groups=1 if linear else module.groups,
        output=tuple(passed[0][1][2:]) if not linear else (),
        calls=len(passed),
        parameters=0,
        macs=int(macs),
        field=None if field is None else field.size,
        folds_to=folds_to,
        reason=reason,
        association=_association(module),
        forms=forms(_shape(module, kernel, passed)) if len(kernel) == 2 and not module.transposed else {},
    )


def _shape(module: nn.Module, kernel: tuple[int, int], passed: list) -> Shape:
    sizes = [(n * h * w, n * rows * w, n * rows * columns) for (n, _, h, w), (*_, rows, columns) in passed]
    return Shape(module.in_channels, module.out_channels, kernel, module.groups, *map(sum, zip(*sizes)))


def _folds_to(operator: ConvNd) -> tuple[str, str]:
    """What folding makes of an operator, and why nothing if it makes nothing."""
    try:
        folded = getattr(copy.deepcopy(operator), f'to_conv{operator.dims}d')()
    except FoldError as error:
        return 'nothing', str(error)
    parts = [part for part in folded.modules() if isinstance(part, nn.modules.conv._ConvNd)]
    return ' + '.join(_described(part) for part in parts), ''


def _described(conv: nn.Module) -> str:
    depthwise = ' depthwise' if conv.groups == conv.in_channels > 1 else ''
    return f'{type(conv).__name__} {"x".join(map(str, conv.kernel_size))}{depthwise}'


def _association(module: nn.Module) -> float | None:
    if not isinstance(module, GeneratedKernel) or module.weight is None:
        return None
    return relative_change(module.kernel(), module.weight)
