r"""The L1 distance on a CPU as loops that torch.compile fuses: :math:`y_{nop} = \sum_k |x_{np,k} - w_{ok}|`.

As :mod:`mmkerv.ops.kerv.l1.layout` lays them out, element k of every patch is the input shifted by one number, whatever
the geometry. Loops run over vectors of positions, and sums stay in registers.
Source: Kervolutional Neural Networks, CVPR 2019, equation 9a.
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.fx.experimental._config
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from mmkerv.ops.core.base import output_shape
from mmkerv.ops.core.precision import full_precision, is_compiling
from mmkerv.ops.kerv.l1.chunked import chunked_distance, chunked_gradients
from mmkerv.ops.kerv.l1.layout import LEAD, flat_input, image_of, layout_of, phases

# Sums that share what they load. More of them do not fit into the registers; compilation time grows with both numbers.
BLOCKS = 4, 3, 2, 1
TAPS = 9

# Without these, inductor writes down every term that is read more than a few times: (filters, K, positions) of them.
INLINE = {'realize_reads_threshold': 10**6, 'realize_acc_reads_threshold': 10**6, 'realize_opcount_threshold': 10**6}

# Inductor's cache knows code by its options, but not by the processor's vectors: where machines share a cache, code for
# the longer vectors of another one would leave parts of the result unwritten.
VECTOR_BITS = {'AVX2': 256, 'AVX512': 512, 'SVE256': 256}

# A size that is 0 or 1 when first met becomes a constant of the code: few sizes are.
VARIANTS = 256

# Terms |x - w| below which the chunked form takes a few milliseconds, where compilation takes seconds.
WORTHWHILE = 2**24

# A compiler that has failed is not asked again: each attempt takes seconds.
_FAILURES: list[Exception] = []


# Whether an operator's code runs below this key hangs on its caller.
_VIEWS = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)


class LoopError(Exception):
    """The loops run uncompiled, where they would need the memory of the broadcast form."""


def loop_distance(
    x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int, chunk_mib: float
) -> Tensor:
    """Compute :func:`mmkerv.ops.kerv.l1.dispatch.l1_distance` on a CPU, without its gradient, in compiled loops.

    The first call compiles, as does the first one with another number of taps or another type. Beyond the result it
    takes one copy of the input and one of the result, whatever ``chunk_mib``. The chunked form, which ``chunk_mib``
    bounds, does what is too small to be worth it and, after one warning, everything where compilation fails.

    Args:
        x: (N, C, *spatial) with one, two or three spatial axes, already padded; float32 or float64.
        weight: (O, C/groups, *kernel), of the same type.
        stride: step of the window, one integer for each spatial axis.
        dilation: distance of the kernel's taps, one integer for each spatial axis.
        groups: number of blocks of channels that do not see each other.
        chunk_mib: bound of the chunked form's memory, in MiB.

    Returns:
        (N, O, *out).

    Example:
        >>> loop_distance(torch.ones(1, 2, 3), torch.zeros(1, 2, 2), (1,), (1,), 1, 64.0)
        tensor([[[4., 4.]]])
    """
    geometry = x, weight, stride, dilation, groups
    terms = math.prod(output_shape(x, weight, stride, dilation)) * weight[0].numel()
    return _attempt(terms, lambda: _distance(*geometry), lambda: chunked_distance(*geometry, chunk_mib))


def loop_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    chunk_mib: float,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of :func:`loop_distance` likewise; one that is not needed is an empty tensor.

    Beyond the gradients this takes copies of the input, of its gradient and of ``grad``.
    """
    geometry = grad, x, weight, stride, dilation, groups
    return _attempt(
        grad.numel() * weight[0].numel(),
        lambda: _gradients(*geometry, need_x, need_weight),
        lambda: chunked_gradients(*geometry, chunk_mib, need_x, need_weight),
    )


def _attempt(terms: int, loop: Callable[[], Any], chunked: Callable[[], Any]) -> Any:
    if terms >= WORTHWHILE and not _FAILURES:
        try:
            # Every mode that the caller may be in would ask for code of its own.
            with (
                torch.inference_mode(False),
                torch._C._ExcludeDispatchKeyGuard(_VIEWS),
                torch.no_grad(),
                full_precision(torch.device('cpu')),
            ):
                return loop()
        except (TorchDynamoException, LoopError) as error:
            _FAILURES.append(error)
            warnings.warn(
                'The L1 distance could not be compiled and runs in its slower form from here on; install a C++ '
                f'compiler that torch.compile finds (g++, or the one that CXX names): {type(error).__name__}: '
                f'{str(error).strip().partition(chr(10))[0]}',
                stacklevel=2,
            )
    return chunked()


def _distance(x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int) -> Tensor:
    layout = layout_of(x, weight, stride, dilation)
    flat, blocks = flat_input(x, groups, layout), _blocks(_filters(weight, groups), axis=1)
    total = None
    for taps in _chunks(layout.taps):
        some = [block[..., taps].contiguous() for block in blocks]
        part = _run(distance_loop, flat, some, layout.starts[taps], layout.length)
        total = part if total is None else total.add_(part)
    y = x.new_empty(output_shape(x, weight, stride, dilation))
    image = y.unflatten(1, (groups, -1))
    return image.copy_(image_of(total, image, layout)).flatten(1, 2)


def _gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    layout = layout_of(x, weight, stride, dilation)
    flat, filters = flat_input(x, groups, layout), _filters(weight, groups)
    # Zeros on either side stand for the positions that are none.
    margin = LEAD + layout.reach
    image = grad.unflatten(1, (groups, -1))
    g = grad.new_zeros(groups, filters.shape[1], margin + layout.phase)
    image_of(g[..., margin : margin + layout.length], image, layout).copy_(image)

    grad_x = grad_weight = x.new_empty(0)
    if need_weight:
        here = g[..., margin : margin + layout.length]
        parts = [
            _run(weight_gradient_loop, flat, filters[..., taps].contiguous(), here, layout.starts[taps], layout.length)
            for taps in _chunks(layout.taps)
        ]
        grad_weight = torch.cat(parts, -1).reshape(weight.shape)
    if need_x:
        grad_x = torch.zeros_like(x, memory_format=torch.contiguous_format)
        most = max(sum(phase == p for p, _ in layout.taps) for phase, _ in layout.taps)
        for phase, (image, part) in enumerate(phases(grad_x, flat, groups, layout)):
            mine = [k for k, (p, _) in enumerate(layout.taps) if p == phase]
            if not mine or not image.numel():
                continue
            # Nothing is above or below NaN: such taps add nothing, and all phases share one compiled loop.
            idle = filters.new_full((*filters.shape[:3], most - len(mine)), math.nan)
            own = torch.cat([filters[..., mine], idle], -1)
            starts = [margin - layout.taps[k][1] for k in mine] + [margin] * (most - len(mine))
            xs, total = _blocks(part, axis=1), None
            for taps in _chunks(starts):
                some = [block.contiguous() for block in _blocks(own[..., taps], axis=2)]
                term = _run(input_gradient_loop, xs, some, g, starts[taps], layout.phase)
                total = term if total is None else total.add_(term)
            image.copy_(image_of(total, image, layout))
    return grad_x, grad_weight


def distance_loop(x: Tensor, filters: list[Tensor], starts: list[int], length: int) -> Tensor:
    """(G, C, T) and blocks of (G, O, C, K) to (G, O, length)."""
    _refuse_eager()
    shifted = [x[:, None, :, start : start + length] for start in starts]
    sums = [_tree([(s - w[..., k, None]).abs() for k, s in enumerate(shifted)]).sum(2) for w in filters]
    return torch.cat(sums, 1)


def weight_gradient_loop(x: Tensor, filters: Tensor, grad: Tensor, starts: list[int], length: int) -> Tensor:
    """(G, C, T), (G, O, C, K) and (G, O, length) to (G, O, C, K)."""
    _refuse_eager()
    sums = []
    for k, start in enumerate(starts):
        shifted = x[:, None, :, start : start + length]
        sums.append(_signed(filters[..., k, None], shifted, grad[:, :, None]).sum(-1))
    return torch.stack(sums, -1)


def input_gradient_loop(
    xs: list[Tensor], filters: list[Tensor], grad: Tensor, starts: list[int], length: int
) -> Tensor:
    """Blocks of (G, C, length) and of (G, O, C, K), and (G, O, T), to (G, C, length)."""
    _refuse_eager()
    shifted = [grad[:, :, None, start : start + length] for start in starts]
    sums = []
    for x, w in zip(xs, filters):
        sums.append(_tree([_signed(x[:, None], w[..., k, None], g) for k, g in enumerate(shifted)]).sum(1))
    return torch.cat(sums, 1)


def _signed(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """sign(a - b) g, in the two comparisons that vectorise best."""
    return torch.where(a > b, g, torch.where(a < b, -g, 0.0))


def _tree(terms: list[Tensor]) -> Tensor:
    """Sum in pairs: a chain would wait for each addition."""
    while len(terms) > 1:
        terms = [sum(terms[i + 1 : i + 2], terms[i]) for i in range(0, len(terms), 2)]
    return terms[0]


def _refuse_eager() -> None:
    if not is_compiling():
        raise LoopError('torch.compile is switched off')


@functools.cache
def _compiled(loop: Callable[..., Tensor]) -> Callable[..., Tensor]:
    bits = VECTOR_BITS.get(torch.backends.cpu.get_cpu_capability())
    return torch.compile(loop, fullgraph=True, dynamic=True, options=INLINE | {'cpp.simdlen': bits})


def _run(loop: Callable[..., Tensor], *arguments: Any) -> Tensor:
    limit = 'recompile_limit' if hasattr(torch._dynamo.config, 'recompile_limit') else 'cache_size_limit'
    # Sizes that happen to be equal would ask for code of their own.
    with (
        torch._dynamo.config.patch({limit: VARIANTS}),
        torch.fx.experimental._config.patch(use_duck_shape=False),
    ):
        return _compiled(loop)(*arguments)


def _filters(weight: Tensor, groups: int) -> Tensor:
    """View (O, C/groups, *kernel) as (groups, O/groups, C/groups, K)."""
    return weight.flatten(2).unflatten(0, (groups, -1))


def _blocks(x: Tensor, axis: int) -> Sequence[Tensor]:
    size = x.shape[axis]
    return x.chunk(next(count for count in BLOCKS if size % count == 0), axis)


def _chunks(taps: Sequence[Any]) -> list[slice]:
    return [slice(start, start + TAPS) for start in range(0, len(taps), TAPS)]
