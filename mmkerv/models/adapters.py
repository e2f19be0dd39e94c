"""Orthogonal adapters on the convolutions of a network: fine-tuning that rotates trained kernels."""

import math
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from mmkerv.errors import ArgumentError, ArgumentTypeError
from mmkerv.models.placement import Where, initialised, selected
from mmkerv.ops.core.adapter import OrthogonalAdapter, adapted_layers, adapter_of, adapter_parameters, attach
from mmkerv.ops.core.arguments import integer, one_of, reject_unknown
from mmkerv.ops.core.base import Conv2d
from mmkerv.utils import log

KINDS = ('oft', 'boft')
FREEZE = ('layers', 'all')
BLOCK_SIZE, BUTTERFLY_FACTORS = 8, 2
ARGUMENTS = ('where', 'kind', 'block_size', 'factors', 'freeze')


def add_orthogonal_adapters(
    model: nn.Module,
    where: Where | dict | None = None,
    kind: str = 'oft',
    block_size: int = BLOCK_SIZE,
    *,
    factors: int | None = None,
    freeze: str = 'layers',
) -> nn.Module:
    r"""Put orthogonal adapters onto trained convolutions, in place: the kernels are frozen and only rotate.

    :math:`W' = \mathrm{diag}(1 + a) W R^T`, with W (O, D) in each channel group, D = C/groups kH kW, and R orthogonal:
    a product of m factors :math:`P_l \mathrm{blockdiag}(R_{l1}, R_{l2}, \ldots) P_l^T` with permutations P,
    :math:`R_{lj} = (I - Q)(I + Q)^{-1}` and skew-symmetric Q. Everything learned starts at 0, so the network computes
    exactly what it did. The kernel rotates, not the input, so stride, padding, dilation, groups and every kernel size
    are those of the convolution.

    The layers are plain convolutions, and operators with a basic ``weight``, which rotates before the operator computes
    its kernel from it. :func:`mmkerv.ops.switch_to_deploy` and the fold tool make the rotated kernels plain weights.

    In the state dict, ``weight`` of such a layer becomes ``parametrizations.weight.original``, and its adapter is
    ``parametrizations.weight.0.skew`` (and ``.gain``). Weights of the network without adapters load as before. Call it
    before the optimizer is built and before the model is wrapped for distributed training; in a config, give
    ``adapters`` to ``mmkerv.Converted``.

    Args:
        model: any network.
        where: rule that selects the layers, see :class:`mmkerv.models.placement.Where`, 1x1 ones included; without a
            rule those of the stages, without the stem, and those outside the stages (necks, heads).
        kind: ``'oft'``: one block-diagonal factor and no a; ``'boft'``: butterfly factors, and a.
        block_size: b, the size of the rotating blocks, >= 2, a divisor of every D. A layer learns
            m (b - 1) / 2 numbers for each element of a filter, in each channel group.
        factors: m of ``'boft'``, by default 2. b is then even, and D a multiple of :math:`2^{m-1} b`.
        freeze: ``'layers'`` freezes weight, bias and the operator's own parameters of the layers; ``'all'`` everything
            in the model but the adapters.

    Returns:
        ``model``.

    Raises:
        ValueError: if no layer is selected, if one has an adapter already, or the blocks do not divide its filters; the
            message names the layer, and the model is unchanged.
        TypeError: for an unknown key of ``where`` or a value of the wrong type.

    Source: OFT, NeurIPS 2023, and BOFT, ICLR 2024, which give it for matrices.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1))
        >>> model = add_orthogonal_adapters(model, block_size=4)
        >>> [name for name, p in model.named_parameters() if p.requires_grad]
        ['0.parametrizations.weight.0.skew', '2.parametrizations.weight.0.skew']
    """
    one_of(kind, 'kind', KINDS)
    one_of(freeze, 'freeze', FREEZE)
    integer(block_size, 'block_size', 2)
    if kind == 'oft' and factors is not None:
        raise ArgumentError(f"factors is for kind='boft', got factors={factors!r} with kind='oft'; leave it out")
    factors = 1 if kind == 'oft' else BUTTERFLY_FACTORS if factors is None else integer(factors, 'factors', 1)
    if factors > 1 and block_size % 2:
        raise ArgumentError(
            f'block_size must be even for factors={factors}, which join halves of blocks, got {block_size}'
        )
    rule = None if where is None else Where.of(where)
    if rule is not None and rule.kernel_sizes is None:
        rule = rule._replace(kernel_sizes='all')
    layers = _layers(model, rule)
    adapters = {}
    for name, layer in layers.items():
        try:
            adapters[name] = OrthogonalAdapter(layer.weight, layer.groups, kind, block_size, factors)
        except ArgumentError as error:
            raise ArgumentError(f'{name}: {error}; {_advice(layers, factors)}') from error
    weights = sum(layer.weight.numel() for layer in layers.values())
    for name, layer in layers.items():
        attach(layer, adapters[name].train(layer.training))
    for holder in (model,) if freeze == 'all' else layers.values():
        _freeze(holder)
    learned = sum(p.numel() for adapter in adapters.values() for p in adapter.parameters())
    log(
        f'mmkerv: {len(layers)} layers have orthogonal adapters ({kind}, block_size={block_size}), such as '
        f'{next(iter(layers))}: {learned} numbers learn in place of {weights} weights, which are frozen'
    )
    return model


def apply_adapters(model: nn.Module, adapters: Any) -> nn.Module:
    """Apply the argument ``adapters`` of a config: the arguments of :func:`add_orthogonal_adapters`, or a list of such.

    Args:
        model: network that is being built; unless it has its weights, training it without a checkpoint is refused.
        adapters: the argument.

    Raises:
        TypeError: if it is something else.
        ValueError: as :func:`add_orthogonal_adapters`.

    Example:
        >>> model = apply_adapters(nn.Sequential(nn.Conv2d(8, 8, 1)), dict(kind='boft', block_size=4))
        >>> type(model[0].parametrizations.weight[0]).__name__
        'OrthogonalAdapter'
    """
    for each in adapters if isinstance(adapters, (list, tuple)) else [adapters]:
        if not isinstance(each, dict):
            raise ArgumentTypeError(
                f'adapters must be a dict with some of {", ".join(ARGUMENTS)}, such as dict(kind="oft"), got {each!r}'
            )
        reject_unknown('adapters', [key for key in each if key not in ARGUMENTS], ARGUMENTS)
        add_orthogonal_adapters(model, **each)
    trained = initialised(model)
    for _, layer, adapter in adapted_layers(model):
        adapter.expects_weight = layer not in trained
    return model


def _layers(model: nn.Module, rule: Where | None) -> dict[str, nn.Module]:
    """Return the layers to adapt, by name."""
    chosen = selected(model, rule, (nn.Conv2d, Conv2d))
    if taken := [name for name, layer in chosen.items() if adapter_of(layer) is not None]:
        raise ArgumentError(
            f'{len(taken)} of the {len(chosen)} selected layers, such as {taken[0]}, have an orthogonal adapter; '
            'select others with where, or fold these first with mmkerv.ops.switch_to_deploy(model)'
        )
    layers = {name: layer for name, layer in chosen.items() if _has_weight(layer)}
    without = [name for name in chosen if name not in layers]
    if not layers:
        found = f'{len(chosen)} layers without a weight of their own, such as {without[0]}' if without else 'no layer'
        raise ArgumentError(
            f'where={where_text(rule)} selects {found}; relax where: adapters go onto plain convolutions and operators '
            'with a basic weight'
        )
    if without:
        log(
            f'mmkerv: {len(without)} selected layers, such as {without[0]}, get no orthogonal adapter: they have no '
            'weight of their own, or one that is computed'
        )
    return layers


def where_text(rule: Where | None) -> dict | None:
    """Return a rule as a user writes it, for messages.

    Example:
        >>> print(where_text(None))
        None
    """
    return None if rule is None else {k: v for k, v in rule._asdict().items() if v != Where._field_defaults[k]}


def _has_weight(layer: nn.Module) -> bool:
    lazy = isinstance(layer, nn.modules.lazy.LazyModuleMixin) and layer.has_uninitialized_params()
    return (
        not lazy
        and isinstance(layer._parameters.get('weight'), nn.Parameter)
        and not parametrize.is_parametrized(layer)
    )


def _advice(layers: dict[str, nn.Module], factors: int) -> str:
    """Return which blocks would do for all layers."""
    common = math.gcd(*(layer.weight[0].numel() for layer in layers.values()))
    step = 1 if factors == 1 else 2
    sizes = [size for size in range(2, common + 1, step) if common % (size * 2 ** (factors - 1)) == 0]
    if not sizes:
        return 'leave this layer out with where'
    fitting = ' or '.join(map(str, sizes[-3:]))
    return f'block_size={fitting} does for all {len(layers)} layers, or leave this one out with where'


def _freeze(holder: nn.Module) -> None:
    kept = {p for layer in holder.modules() for p in adapter_parameters(layer).values()}
    for parameter in holder.parameters():
        parameter.requires_grad_(parameter in kept)
