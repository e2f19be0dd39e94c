"""Fold the operators of a model into plain convolutions."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from mmkerv.errors import ArgumentError, FoldError
from mmkerv.operator_table import operator_name
from mmkerv.ops.core import arguments
from mmkerv.ops.core.adapter import adapted_layers, merge, require_mergeable
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.fft.cost_model import WIDE, is_wide
from mmkerv.ops.core.geometry import memory_format
from mmkerv.ops.core.references import replace_modules
from mmkerv.utils import log


class DeployReport(NamedTuple):
    """Result of :func:`switch_to_deploy`: the names of the replaced operators, and of the kept ones with the reason.

    Example:
        >>> print(DeployReport(replaced=['conv1'], kept={}))
        mmkerv: folded 1 operator into plain convolutions; kept 0
    """

    replaced: list[str]
    kept: dict[str, str]

    def __str__(self) -> str:
        noun = 'operator' if len(self.replaced) == 1 else 'operators'
        head = f'mmkerv: folded {len(self.replaced)} {noun} into plain convolutions; kept {len(self.kept)}'
        return '\n'.join([head, *(f'  {name}: {reason}' for name, reason in self.kept.items())])


def switch_to_deploy(model: nn.Module, split: str = 'keep') -> DeployReport:
    """Replace every operator of ``model`` that has an equivalent plain convolution with that convolution, in place.

    Outputs are not compared; :func:`mmkerv.deploy.fold_checkpoint` does that. A module used in several places is
    replaced by the same convolution in all of them. Module names, and with them the keys of the state dict, stay the
    same; the operators' own parameters disappear. A separable operator becomes an ``nn.Sequential`` of two
    convolutions, whose keys contain an additional index. Orthogonal adapters become part of the weight, also in
    operators that are kept; a plain convolution with an adapter counts as an operator.

    Modules that store the ``conv_cfg`` of an operator, of which none is left in them, get the ``conv_cfg`` of the
    folded layer: upstream's RepVGG, MobileOne and RepMLP build the layer that merges their branches from it.

    Args:
        model: any module that contains operators; not an operator itself.
        split: treatment of operators that cost more when folded, because they convolve parts of the channels:
            ``'keep'`` keeps and reports them, ``'dense'`` folds them into one convolution.

    Returns:
        The names of the replaced operators, and of the kept ones with the reason.

    Raises:
        ValueError: if ``model`` is itself an operator, which cannot be replaced in place, if ``split`` is unknown, or
            if a layer with an adapter is parametrized otherwise too.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> model = nn.Sequential(CoCConv2d(3, 8, 3), nn.ReLU())
        >>> switch_to_deploy(model).replaced, type(model[0])
        (['0'], <class 'torch.nn.modules.conv.Conv2d'>)
    """
    arguments.one_of(split, 'split', ('keep', 'dense'))
    if isinstance(model, ConvNd):
        raise ArgumentError(
            f'switch_to_deploy replaces operators inside a model, got a single {type(model).__name__}; use its '
            f'to_conv{model.dims}d()'
        )
    operators = {}
    for parent_name, parent in model.named_modules():
        for child_name, child in parent._modules.items():
            if isinstance(child, ConvNd):
                operators[f'{parent_name}.{child_name}' if parent_name else child_name] = child
    adapted = {name: layer for name, layer, _ in adapted_layers(model)}
    for name, layer in adapted.items():
        require_mergeable(name, layer)
    for layer in adapted.values():
        merge(layer)
    if adapted:
        log(f'mmkerv: {len(adapted)} orthogonal adapters became part of the weights of their layers')
    stuck = replace_modules(model, {operator: operator for operator in operators.values()})
    folded: dict[nn.Module, nn.Module] = {}
    report = DeployReport([name for name in adapted if name not in operators], {})
    for name, operator in operators.items():
        try:
            if operator in stuck:
                raise FoldError(f'also used in {stuck[operator]}, where it cannot be replaced')
            if operator not in folded:
                folded[operator] = _fold(operator, split)
            report.replaced.append(name)
        except FoldError as error:
            report.kept[name] = str(error)
    replace_modules(model, folded)
    _advise_layout(model, [name for name, op in operators.items() if any(map(_is_slow, _parts(folded.get(op))))])
    if folded:
        _replace_stored_configs(model, {type(operator) for operator in folded})
    _remove_fold_first(model)
    return report


def _parts(layer: nn.Module | None) -> Iterable[nn.Module]:
    return () if layer is None else layer.modules()


def _is_slow(layer: nn.Module) -> bool:
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels
    return depthwise and is_wide(layer.weight)


def _advise_layout(model: nn.Module, slow: list[str]) -> None:
    if slow and not any(memory_format(p) == torch.channels_last for p in model.parameters()):
        log(
            f'mmkerv: {len(slow)} of the folded layers, such as {slow[0]}, are depthwise with {WIDE} columns or more; '
            'on a CPU they are many times faster in channels_last: model.to(memory_format=torch.channels_last). Not '
            "with mmcv's roi_align, which reads that layout wrongly: leave such a model unfolded, inside frozen_kernels"
        )


def _replace_stored_configs(model: nn.Module, kinds: set[type[ConvNd]]) -> None:
    """Replace the ``conv_cfg`` of operators of these classes in modules that hold none of the class any more."""
    by_name = {operator_name(kind) or kind.__name__.removesuffix('2d'): kind for kind in kinds}
    for module in model.modules():
        for key, value in list(vars(module).items()):
            if not (key.endswith('conv_cfg') and isinstance(value, dict)):
                continue
            named = value.get('type')
            name = named.rpartition('.')[2] if isinstance(named, str) else getattr(named, '__name__', '')
            kind = by_name.get(operator_name(named) or name.removesuffix('2d'))
            if kind is not None and not any(type(m) is kind for m in module.modules()):
                setattr(module, key, kind.deploy_cfg(value))


class FoldFirst:
    """A deploy step of another library, such as ``fuse()``, that folds the operators before the library's own code.

    Such a step reads ``weight`` as the kernel, which of an operator it is not. If an operator does not fold, the step
    changes nothing, so the module still computes the same.

    Args:
        module: module of which an attribute ``step`` is set to this object; folding removes it again.
        step: name of the step, a method of the module's class without required arguments.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> class Block(nn.Sequential):
        ...     def fuse(self):
        ...         return [type(m).__name__ for m in self]
        >>> block = Block(CoCConv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> block.fuse = FoldFirst(block, 'fuse')
        >>> block.fuse()
        ['Conv2d', 'BatchNorm2d']
    """

    def __init__(self, module: nn.Module, step: str):
        self.module, self.step = module, step

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Fold the operators, then call the step of the module's class; return the module if that is not done.

        Example:
            >>> FoldFirst(nn.Identity(), 'eval')()
            Identity()
        """
        kind = type(self.module)
        report = switch_to_deploy(self.module)
        if report.kept:
            name, reason = next(iter(report.kept.items()))
            log(
                f'mmkerv: {kind.__name__}.{self.step}() left the layers as they are, because {len(report.kept)} of its '
                f'operators do not fold, such as {name}: {reason}'
            )
            return self.module
        return getattr(kind, self.step)(self.module, *args, **kwargs)


def _remove_fold_first(model: nn.Module) -> None:
    for module in model.modules():
        if not any(isinstance(m, ConvNd) for m in module.modules()):
            for key in [key for key, value in vars(module).items() if isinstance(value, FoldFirst)]:
                delattr(module, key)


def _fold(operator: ConvNd, split: str) -> nn.Module:
    operator._refuse_hooks()
    if operator.costs_more_folded and split == 'keep':
        raise FoldError(f"{type(operator).__name__} costs less as it is; split='dense' (--split dense) folds it")
    fold = getattr(operator, f'to_conv{operator.dims}d')
    return fold(dense=True) if operator.costs_more_folded else fold()
