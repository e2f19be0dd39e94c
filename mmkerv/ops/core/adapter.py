r"""Orthogonal adapters: a frozen kernel times a learned rotation, W' = diag(1 + a) W R^T.

OFT: Qiu et al., "Controlling Text-to-Image Diffusion by Orthogonal Finetuning", NeurIPS 2023. BOFT: Liu et al.,
"Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization", ICLR 2024.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmkerv.errors import ArgumentError
from mmkerv.ops.core.geometry import memory_format
from mmkerv.ops.core.initialisation import InitialisedAsPlain
from mmkerv.ops.core.precision import full_precision, wide_type

# Where torch keeps what it computes a parametrized `weight` from.
PARAMETRIZATION = 'parametrizations.weight'
ORIGINAL = f'{PARAMETRIZATION}.original'


def skew_matrix(numbers: Tensor, size: int) -> Tensor:
    r"""Return the skew-symmetric matrices :math:`Q = U - U^T` with the given numbers above the diagonal.

    Args:
        numbers: upper triangle by rows, (..., size (size - 1) / 2).
        size: rows of a matrix, >= 2.

    Returns:
        (..., size, size).

    Example:
        >>> skew_matrix(torch.tensor([1.0, 2.0, 3.0]), 3)
        tensor([[ 0.,  1.,  2.],
                [-1.,  0.,  3.],
                [-2., -3.,  0.]])
    """
    row = torch.arange(size, device=numbers.device)[:, None]
    column = torch.arange(size, device=numbers.device)
    position = row * (2 * size - row - 1) // 2 + column - row - 1
    upper = numbers[..., position.clamp(0, numbers.shape[-1] - 1)].triu(1)
    return upper - upper.transpose(-1, -2)


def cayley(skew: Tensor) -> Tensor:
    r"""Return the rotations :math:`R = (I - Q)(I + Q)^{-1}` of skew-symmetric matrices; the identity for Q = 0.

    The inverse exists for every Q. No rotation by exactly 180 degrees is of this form.

    Args:
        skew: Q, (..., b, b), float32 or float64.

    Example:
        >>> bool(torch.allclose(cayley(skew_matrix(torch.ones(1), 2)), torch.tensor([[0.0, -1.0], [1.0, 0.0]])))
        True
    """
    identity = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    # Both factors are functions of Q, so they commute.
    return torch.linalg.solve(identity + skew, identity - skew)


def rotated(kernel: Tensor, rotations: Tensor, groups: int = 1) -> Tensor:
    r"""Return :math:`W R^T` for the kernel of each channel group, with a product of block-diagonal rotations.

    :math:`R = R_m \cdots R_1`, where :math:`R_1` is block diagonal with blocks of size b, and :math:`R_j` the butterfly
    of level j: it joins the halves of blocks that lie :math:`2^{j-1}` halves apart.

    Args:
        kernel: W, (O, C/groups, *size); the D = C/groups \* prod(size) elements of a filter, channel by channel, are
            the coordinates that rotate.
        rotations: blocks of each factor, (m, groups D/b, b, b).
        groups: channel groups of the convolution; each has blocks of its own.

    Example:
        >>> turn = cayley(skew_matrix(torch.ones(1, 1, 1), 2))
        >>> rotated(torch.tensor([[[[3.0, 4.0]]]]), turn).round()
        tensor([[[[-4.,  3.]]]])
    """
    size, filters = rotations.shape[-1], kernel.shape[0] // groups
    identity = torch.eye(size, dtype=rotations.dtype, device=rotations.device)
    w = kernel.reshape(groups, filters, -1)
    for level, blocks in enumerate(rotations):
        # Level 0 has whole blocks, and each other level pairs halves of them at a distance.
        parts = (1, 1, size) if level == 0 else (2, 2**level, size // 2)
        w = w.reshape(groups, filters, -1, *parts).transpose(-2, -3)
        shape = w.shape
        w = w.reshape(groups, filters, -1, size)
        # W + W (R - I)^T is exactly W at the start, also where products are rounded to TF32.
        change = (blocks - identity).reshape(groups, -1, size, size)
        w = w + torch.einsum('gonj,gnij->goni', w, change)
        w = w.reshape(shape).transpose(-2, -3)
    return w.reshape(kernel.shape)


class OrthogonalAdapter(InitialisedAsPlain, nn.Module):
    r"""Parametrization of a convolution's weight: :math:`W' = \mathrm{diag}(1 + a) W R^T` with a rotation R.

    W is (O, D) in each channel group, D = C/groups kH kW, and R is as in :func:`rotated`, of the blocks
    :math:`(I - Q)(I + Q)^{-1}`. All parameters start at 0, where W' = W exactly. Without a,
    :math:`W' W'^T = W W^T`: the angles between filters and their norms stay what they were trained to be.

    The result is computed in float32 at least, with autocast off.

    Args:
        kernel: W, for its shape, type and device.
        groups: channel groups of the convolution.
        kind: ``'oft'``: one factor and no a; ``'boft'``: ``factors`` of them, and a.
        block_size: b, the size of the rotating blocks, >= 2. It divides D; for m factors it is even, and D is divisible
            by :math:`2^{m-1} b`.
        factors: m, >= 1; 1 for ``'oft'``. With :math:`2^{m-1} b = D` every element reaches every other.

    Attributes:
        skew: upper triangles of Q, (m, groups D/b, b (b - 1) / 2).
        gain: a, (O,); ``None`` for ``'oft'``.

    Raises:
        ValueError: if the blocks do not divide the filters.

    Example:
        >>> kernel = torch.randn(8, 4, 3, 3)
        >>> adapter = OrthogonalAdapter(kernel, groups=1, kind='oft', block_size=6)
        >>> bool(torch.equal(adapter(kernel), kernel)), adapter.skew.shape
        (True, torch.Size([1, 6, 15]))
    """

    # Whether the weight is still to come from a checkpoint; mmkerv.engine.CheckFrozenOperatorsHook sees that it does.
    expects_weight = False
    # Nothing for initialisers, some of which draw all parameters of more than one axis: it must start at the identity.
    weight = None

    def __init__(self, kernel: Tensor, groups: int, kind: str, block_size: int, factors: int = 1):
        super().__init__()
        self.groups, self.kind, self.block_size, self.factors = groups, kind, block_size, factors
        length = kernel[0].numel()
        unit = block_size * 2 ** (factors - 1)
        if length % unit:
            what = f'block_size={block_size}' + (f' with factors={factors}' if factors > 1 else '')
            raise ArgumentError(
                f'{what} needs filters of a multiple of {unit} elements, got {length} '
                f'({" x ".join(map(str, kernel.shape[1:]))})'
            )
        factory = {'dtype': kernel.dtype, 'device': kernel.device}
        numbers = block_size * (block_size - 1) // 2
        self.skew = nn.Parameter(torch.zeros(factors, groups * length // block_size, numbers, **factory))
        self.register_parameter('gain', nn.Parameter(torch.zeros(len(kernel), **factory)) if kind == 'boft' else None)

    def rotations(self) -> Tensor:
        """Return the blocks of R, (m, groups D/b, b, b), in float32 or float64; autocast must be off.

        Example:
            >>> adapter = OrthogonalAdapter(torch.ones(1, 1, 2, 2), groups=1, kind='oft', block_size=2)
            >>> adapter.rotations()[0, 0]
            tensor([[1., 0.],
                    [0., 1.]], grad_fn=...)
        """
        return cayley(skew_matrix(self.skew.to(wide_type(self.skew.dtype)), self.block_size))

    def forward(self, kernel: Tensor) -> Tensor:
        """Return W' for W, both (O, C/groups, kH, kW).

        Example:
            >>> adapter = OrthogonalAdapter(torch.ones(2, 1, 2, 2), groups=1, kind='boft', block_size=2, factors=2)
            >>> adapter(torch.ones(2, 1, 2, 2)).shape
            torch.Size([2, 1, 2, 2])
        """
        with full_precision(kernel.device):
            result = rotated(kernel.to(wide_type(kernel.dtype)), self.rotations(), self.groups)
            if self.gain is not None:
                result = result * (1 + self.gain.to(result.dtype)).reshape(-1, *[1] * (kernel.dim() - 1))
        return result.to(kernel.dtype).contiguous(memory_format=memory_format(kernel))

    def extra_repr(self) -> str:
        """Return the arguments.

        Example:
            >>> OrthogonalAdapter(torch.ones(1, 1, 2, 2), groups=1, kind='oft', block_size=4)
            OrthogonalAdapter(kind='oft', block_size=4)
        """
        factors = f', factors={self.factors}' if self.factors > 1 else ''
        return f'kind={self.kind!r}, block_size={self.block_size}{factors}'


def adapter_of(layer: nn.Module) -> OrthogonalAdapter | None:
    """Return the orthogonal adapter of a layer's ``weight``, or ``None``.

    Example:
        >>> print(adapter_of(nn.Conv2d(3, 8, 3)))
        None
    """
    if not parametrize.is_parametrized(layer, 'weight'):
        return None
    return next((part for part in layer.parametrizations.weight if isinstance(part, OrthogonalAdapter)), None)


def weight_key(layer: nn.Module) -> str:
    """Return the name of a layer's weight in its state dict.

    Example:
        >>> weight_key(nn.Conv2d(3, 8, 3))
        'weight'
    """
    return 'weight' if adapter_of(layer) is None else ORIGINAL


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, OrthogonalAdapter]]:
    """Yield the names of the layers with an orthogonal adapter, with layer and adapter.

    Example:
        >>> list(adapted_layers(nn.Conv2d(3, 8, 3)))
        []
    """
    for name, layer in model.named_modules():
        if (adapter := adapter_of(layer)) is not None:
            yield name, layer, adapter


def attach(layer: nn.Module, adapter: OrthogonalAdapter) -> None:
    """Put an adapter onto the ``weight`` of a layer, which then loads plain weights too.

    Args:
        layer: convolution or operator with a Parameter ``weight``.
        adapter: built for that weight.

    Example:
        >>> conv = nn.Conv2d(2, 2, 1)
        >>> attach(conv, OrthogonalAdapter(conv.weight, groups=1, kind='oft', block_size=2)); list(conv.state_dict())
        ['bias', 'parametrizations.weight.original', 'parametrizations.weight.0.skew']
    """
    parametrize.register_parametrization(layer, 'weight', adapter)
    layer._register_load_state_dict_pre_hook(_take_plain_weight, with_module=True)


def merge(layer: nn.Module) -> None:
    """Make the rotated kernel the ``weight`` of a layer and remove its adapter, in place.

    Copies of the layer keep theirs: torch's ``remove_parametrizations`` would change the class that they share.

    Example:
        >>> conv = nn.Conv2d(2, 2, 1)
        >>> attach(conv, OrthogonalAdapter(conv.weight, groups=1, kind='oft', block_size=2)); merge(conv)
        >>> type(conv).__name__, list(conv.state_dict())
        ('Conv2d', ['weight', 'bias'])
    """
    learns = any(parameter.requires_grad for parameter in layer.parametrizations.weight.parameters())
    merged = nn.Parameter(layer.weight.detach().clone(), requires_grad=learns)
    layer.__class__ = parametrize.type_before_parametrizations(layer)
    del layer._modules['parametrizations']
    hooks = layer._load_state_dict_pre_hooks
    for key in [key for key, hook in hooks.items() if getattr(hook, 'hook', None) is _take_plain_weight]:
        del hooks[key]
    # First, as in a layer that never had an adapter: optimizers and state dicts go by the order.
    layer._parameters = type(layer._parameters)([('weight', merged), *layer._parameters.items()])


def require_mergeable(name: str, layer: nn.Module) -> None:
    """Refuse a layer in which something else is parametrized beside the adapter.

    Args:
        name: of the layer, for the message.
        layer: layer with an adapter.

    Raises:
        ValueError: naming the layer and what to do.

    Example:
        >>> conv = nn.Conv2d(2, 2, 1)
        >>> attach(conv, OrthogonalAdapter(conv.weight, groups=1, kind='oft', block_size=2))
        >>> require_mergeable('conv', conv)
    """
    if len(layer.parametrizations) > 1 or len(layer.parametrizations.weight) > 1:
        raise ArgumentError(
            f'{name} has other parametrizations beside its orthogonal adapter, which folding would lose; remove them '
            'first with torch.nn.utils.parametrize.remove_parametrizations'
        )


def given_original(state_dict: dict[str, Any], prefix: str, layer: nn.Module) -> None:
    """Give a plain weight in a state dict the name that it has in a layer with an adapter, in place.

    Args:
        state_dict: weights of a network.
        prefix: of the layer's keys.
        layer: any module; nothing is done without an adapter.

    Example:
        >>> conv = nn.Conv2d(2, 2, 1)
        >>> attach(conv, OrthogonalAdapter(conv.weight, groups=1, kind='oft', block_size=2))
        >>> state = {'weight': conv.weight}; given_original(state, '', conv); list(state)
        ['parametrizations.weight.original']
    """
    plain, original = f'{prefix}weight', f'{prefix}{ORIGINAL}'
    if plain in state_dict and original not in state_dict and adapter_of(layer) is not None:
        state_dict[original] = state_dict.pop(plain)


def adapter_parameters(layer: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a layer's adapter by their names in the layer; none without an adapter.

    Example:
        >>> adapter_parameters(nn.Conv2d(2, 2, 1))
        {}
    """
    if adapter_of(layer) is None:
        return {}
    # Not named_parameters, which hides them while the network is initialised.
    return {
        f'{PARAMETRIZATION}.{number}.{name}': parameter
        for number, part in enumerate(layer.parametrizations.weight)
        for name, parameter in part.__dict__['_parameters'].items()
        if parameter is not None
    }


def lacks_adapter(state_dict: Mapping[str, Any], prefix: str, layer: nn.Module) -> list[str]:
    """Return the keys of a layer's adapter if a state dict has the weight under it, but nothing of the adapter.

    Example:
        >>> lacks_adapter({'weight': torch.ones(1)}, '', nn.Conv2d(1, 1, 1))
        []
    """
    keys = [f'{prefix}{name}' for name in adapter_parameters(layer)]
    return keys if f'{prefix}{weight_key(layer)}' in state_dict and not any(key in state_dict for key in keys) else []


def arguments_of(state_dict: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Return the arguments of the adapters in a state dict as a config has them, ``''`` if there are none.

    Args:
        state_dict: weights of a network with adapters.
        keys: those to look at.

    Example:
        >>> state = {'conv.parametrizations.weight.0.skew': torch.zeros(1, 9, 28)}
        >>> arguments_of(state, state)
        "adapters=dict(kind='oft', block_size=8)"
    """
    found = {key.removesuffix('skew') for key in keys if key.endswith(f'{PARAMETRIZATION}.0.skew')}
    texts = []
    for prefix in sorted(found):
        factors, _, numbers = getattr(state_dict.get(f'{prefix}skew'), 'shape', (1, 0, 0))
        # b (b - 1) / 2 numbers.
        size = (1 + math.isqrt(1 + 8 * numbers)) // 2
        kind = 'boft' if f'{prefix}gain' in state_dict else 'oft'
        more = f', factors={factors}' if kind == 'boft' else ''
        texts.append(f'adapters=dict(kind={kind!r}, block_size={size}{more})' if numbers else 'adapters=dict(...)')
    return ' and '.join(dict.fromkeys(texts))


def _take_plain_weight(layer: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    """Load the weight of a plain convolution under the adapter, whose parameters stay as they are."""
    if f'{prefix}weight' not in state_dict or adapter_of(layer) is None:
        return
    given_original(state_dict, prefix, layer)
    if lacks_adapter(state_dict, prefix, layer):
        state_dict.update({f'{prefix}{name}': value for name, value in adapter_parameters(layer).items()})
