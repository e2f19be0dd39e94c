"""Fold the operators of a model into plain convolutions."""

from typing import NamedTuple

from torch import nn

from mmkerv.errors import ArgumentError, FoldError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.references import replace_modules


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
    convolutions, whose keys contain an additional index.

    Args:
        model: any module that contains operators; not an operator itself.
        split: treatment of operators that cost more when folded, because they convolve parts of the channels:
            ``'keep'`` keeps and reports them, ``'dense'`` folds them into one convolution.

    Returns:
        The names of the replaced operators, and of the kept ones with the reason.

    Raises:
        ValueError: if ``model`` is itself an operator, which cannot be replaced in place, or ``split`` is unknown.

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
    stuck = replace_modules(model, {operator: operator for operator in operators.values()})
    folded: dict[nn.Module, nn.Module] = {}
    report = DeployReport([], {})
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
    return report


def _fold(operator: ConvNd, split: str) -> nn.Module:
    if operator._forward_hooks or operator._forward_pre_hooks or operator._backward_hooks:
        raise FoldError(f'{type(operator).__name__} has hooks that folding would lose; remove them first')
    if operator.costs_more_folded and split == 'keep':
        raise FoldError(f"{type(operator).__name__} costs less as it is; split='dense' folds it")
    fold = getattr(operator, f'to_conv{operator.dims}d')
    return fold(dense=True) if operator.costs_more_folded else fold()
