r"""The L1 distance on a CPU as loops that torch.compile fuses: :math:`y_{nop} = \sum_k |x_{np,k} - w_{ok}|`.

Input, result and gradients are laid out as lines of memory (:class:`Layout`) in which element k of every patch is the
input shifted by one number. One loop over positions therefore serves 1-D, 2-D and 3-D, any stride and any batch. Loops
run over vectors of positions, and sums stay in registers.
Source: Kervolutional Neural Networks, CVPR 2019, equation 9a.
"""

import functools
import itertools
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.fx.experimental._config
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from mmkerv.ops.core.arguments import ceil_div
from mmkerv.ops.core.geometry import output_shape
from mmkerv.ops.core.precision import full_precision
from mmkerv.ops.core.tracing import is_compiling
from mmkerv.ops.kerv.l1.chunked import chunked_distance, chunked_gradients

# Sums that share what they load. More of them do not fit into the registers; compilation time grows with both numbers.
BLOCKS = 4, 3, 2, 1
TAPS = 9

# Without these limits inductor stores every term that is read more than a few times: (filters, K, positions) of them.
INLINE = {'realize_reads_threshold': 10**6, 'realize_acc_reads_threshold': 10**6, 'realize_opcount_threshold': 10**6}

# Inductor's cache identifies code by its options, but not by the processor's vector length. Where machines share a
# cache, code for longer vectors than this processor's would leave parts of the result unwritten.
VECTOR_BITS = {'AVX2': 256, 'AVX512': 512, 'SVE256': 256}

# Recompilations allowed: a size that is 0 or 1 at first becomes a constant of the code, but few sizes are.
VARIANTS = 256

# Terms |x - w| below which the chunked form takes a few milliseconds, where compilation takes seconds.
WORTHWHILE = 2**24

# An offset that is 0 or 1 at first would become a constant of the compiled code, so all offsets start at 2.
LEAD = 2

# Set when compilation has failed. It is not tried again, since each attempt takes seconds.
_compilation_failed = False

# The dispatch key whose presence depends on the caller's mode; excluded so that one compiled code serves every caller.
_VIEWS = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)


class LoopError(Exception):
    """The loops ran uncompiled, where they would need the memory of the broadcast form."""


def loop_distance(
    x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int, chunk_mib: float
) -> Tensor:
    """Compute :func:`mmkerv.ops.kerv.l1.l1_distance` on a CPU, without its gradient, in compiled loops.

    The first call compiles, as does the first one with another number of taps or another type. Beyond the result the
    loops need one copy of the input and one of the result, whatever ``chunk_mib``. The chunked form, whose memory
    ``chunk_mib`` bounds, computes what is too small to be worth compiling and, after one warning, everything where
    compilation fails.

    Args:
        x: (N, C, *spatial) with one, two or three spatial axes, already padded; float32 or float64.
        weight: (O, C/groups, *kernel), of the same type.
        stride: step of the window, one integer for each spatial axis.
        dilation: distance of the kernel's taps, one integer for each spatial axis.
        groups: number of groups of channels.
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
    """Compute the gradients of :func:`loop_distance` in compiled loops; one that is not needed is an empty tensor.

    Beyond the gradients this needs copies of the input, of its gradient and of ``grad``.
    """
    geometry = grad, x, weight, stride, dilation, groups
    return _attempt(
        grad.numel() * weight[0].numel(),
        lambda: _gradients(*geometry, need_x, need_weight),
        lambda: chunked_gradients(*geometry, chunk_mib, need_x, need_weight),
    )


def _attempt(terms: int, loop: Callable[[], Any], chunked: Callable[[], Any]) -> Any:
    """Run ``loop``, or ``chunked`` where the terms are few or compilation has failed."""
    global _compilation_failed
    if terms >= WORTHWHILE and not _compilation_failed:
        try:
            # Each mode of the caller (inference, gradients, autocast) would otherwise need code of its own.
            with (
                torch.inference_mode(False),
                torch._C._ExcludeDispatchKeyGuard(_VIEWS),
                torch.no_grad(),
                full_precision(torch.device('cpu')),
            ):
                return loop()
        except (TorchDynamoException, LoopError) as error:
            _compilation_failed = True
            warnings.warn(
                'The L1 distance could not be compiled and runs in its slower form from now on; install a C++ '
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
        filters = [block[..., taps].contiguous() for block in blocks]
        part = _run(distance_loop, flat, filters, layout.starts[taps], layout.length)
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
    # Zeros on either side of the gradient replace the positions outside the output.
    margin = LEAD + layout.reach
    image = grad.unflatten(1, (groups, -1))
    g = grad.new_zeros(groups, filters.shape[1], margin + layout.phase)
    image_of(g[..., margin : margin + layout.length], image, layout).copy_(image)

    grad_x = grad_weight = x.new_empty(0)
    if need_weight:
        inside = g[..., margin : margin + layout.length]
        parts = []
        for taps in _chunks(layout.taps):
            weights = filters[..., taps].contiguous()
            parts.append(_run(weight_gradient_loop, flat, weights, inside, layout.starts[taps], layout.length))
        grad_weight = torch.cat(parts, -1).reshape(weight.shape)
    if need_x:
        grad_x = torch.zeros_like(x, memory_format=torch.contiguous_format)
        most = max(Counter(phase for phase, _ in layout.taps).values())
        for phase, (image, part) in enumerate(phases(grad_x, flat, groups, layout)):
            indices = [k for k, (p, _) in enumerate(layout.taps) if p == phase]
            if not indices or not image.numel():
                continue
            # Every phase gets as many taps as the largest one, so that all share one compiled loop. The additional taps
            # have weight NaN: no input is above or below it, so they add 0.
            missing = most - len(indices)
            padded = torch.cat([filters[..., indices], filters.new_full((*filters.shape[:3], missing), math.nan)], -1)
            starts = [margin - layout.taps[k][1] for k in indices] + [margin] * missing
            xs, total = _blocks(part, axis=1), None
            for taps in _chunks(starts):
                weights = [block.contiguous() for block in _blocks(padded[..., taps], axis=2)]
                term = _run(input_gradient_loop, xs, weights, g, starts[taps], layout.phase)
                total = term if total is None else total.add_(term)
            image.copy_(image_of(total, image, layout))
    return grad_x, grad_weight


def distance_loop(x: Tensor, filters: list[Tensor], starts: list[int], length: int) -> Tensor:
    """Sum |x - w| for ``x`` (G, C, T) and blocks of ``filters`` (G, O, C, K); returns (G, O, length)."""
    _refuse_eager()
    shifted = [x[:, None, :, start : start + length] for start in starts]
    sums = [_tree([(s - w[..., k, None]).abs() for k, s in enumerate(shifted)]).sum(2) for w in filters]
    return torch.cat(sums, 1)


def weight_gradient_loop(x: Tensor, filters: Tensor, grad: Tensor, starts: list[int], length: int) -> Tensor:
    """Sum sign(w - x) g for ``x`` (G, C, T), ``filters`` (G, O, C, K) and ``grad`` (G, O, length); (G, O, C, K)."""
    _refuse_eager()
    sums = []
    for k, start in enumerate(starts):
        shifted = x[:, None, :, start : start + length]
        sums.append(_signed(filters[..., k, None], shifted, grad[:, :, None]).sum(-1))
    return torch.stack(sums, -1)


def input_gradient_loop(
    xs: list[Tensor], filters: list[Tensor], grad: Tensor, starts: list[int], length: int
) -> Tensor:
    """Sum sign(x - w) g for blocks of (G, C, length) and (G, O, C, K), and ``grad`` (G, O, T); (G, C, length)."""
    _refuse_eager()
    shifted = [grad[:, :, None, start : start + length] for start in starts]
    sums = []
    for x, w in zip(xs, filters):
        sums.append(_tree([_signed(x[:, None], w[..., k, None], g) for k, g in enumerate(shifted)]).sum(1))
    return torch.cat(sums, 1)


def _signed(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """Compute sign(a - b) g by two comparisons, the form that vectorises best."""
    return torch.where(a > b, g, torch.where(a < b, -g, 0.0))


def _tree(terms: list[Tensor]) -> Tensor:
    """Sum in pairs: in a chain each addition would wait for the one before."""
    while len(terms) > 1:
        unpaired = terms[-1:] if len(terms) % 2 else []
        terms = [a + b for a, b in zip(terms[::2], terms[1::2])] + unpaired
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
    # Without use_duck_shape=False, sizes that happen to be equal would be compiled as one.
    with (
        torch._dynamo.config.patch({limit: VARIANTS}),
        torch.fx.experimental._config.patch(use_duck_shape=False),
    ):
        return _compiled(loop)(*arguments)


def _filters(weight: Tensor, groups: int) -> Tensor:
    """View (O, C/groups, *kernel) as (groups, O/groups, C/groups, K)."""
    return weight.flatten(2).unflatten(0, (groups, -1))


def _blocks(x: Tensor, axis: int) -> Sequence[Tensor]:
    """Split ``x`` into the largest number of equal parts in ``BLOCKS`` that its size allows."""
    size = x.shape[axis]
    return x.chunk(next(count for count in BLOCKS if size % count == 0), axis)


def _chunks(taps: Sequence[Any]) -> list[slice]:
    return [slice(start, start + TAPS) for start in range(0, len(taps), TAPS)]


class Layout(NamedTuple):
    """Positions of an input's elements in lines of memory in which every tap of the kernel is one shift.

    The first spatial axis comes first, then the batch, then the other axes; gaps between the images hold what lies
    beside them. The elements of each phase of the stride are stored together. Positions that wrap around an axis are
    computed too, and left out when the result is read.
    """

    stride: Sequence[int]
    # Elements (steps of the stride) that each spatial axis is padded to.
    cells: list[int]
    # Elements of one phase: the cells of all images.
    phase: int
    # For each tap, the phase of the stride that it reads, and its shift there.
    taps: list[tuple[int, int]]
    # Positions computed, those that wrap around an axis included.
    length: int

    @property
    def reach(self) -> int:
        """Largest shift of a tap."""
        return max(shift for _, shift in self.taps)

    @property
    def starts(self) -> list[int]:
        """Position at which each tap begins to read."""
        return [LEAD + phase * self.phase + shift for phase, shift in self.taps]


def layout_of(x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]) -> Layout:
    """Return the layout of an input (N, C, *spatial) for a weight (O, C/groups, *kernel).

    Example:
        >>> layout_of(torch.ones(2, 1, 3, 4), torch.ones(1, 1, 2, 2), (1, 1), (1, 1)).taps
        [(0, 0), (0, 1), (0, 8), (0, 9)]
    """
    batch, cells = x.shape[0], [ceil_div(size, s) for size, s in zip(x.shape[2:], stride)]
    pitches = [math.prod(cells[axis + 1 :]) * (batch if axis == 0 else 1) for axis in range(len(cells))]
    taps = []
    for tap in itertools.product(*(range(k) for k in weight.shape[2:])):
        phase = shift = 0
        for t, d, s, pitch in zip(tap, dilation, stride, pitches):
            phase, shift = phase * s + t * d % s, shift + t * d // s * pitch
        taps.append((phase, shift))
    length = output_shape(x, weight, stride, dilation)[2] * pitches[0]
    return Layout(stride, cells, cells[0] * pitches[0], taps, length)


def flat_input(x: Tensor, groups: int, layout: Layout) -> Tensor:
    """Copy ``x`` (N, C, *spatial) into lines (groups, C/groups, positions), with zeros in the gaps."""
    size = LEAD + math.prod(layout.stride) * layout.phase + layout.reach
    flat = x.new_zeros(groups, x.shape[1] // groups, size)
    for image, part in phases(x, flat, groups, layout):
        image_of(part, image, layout).copy_(image)
    return flat


def phases(x: Tensor, flat: Tensor, groups: int, layout: Layout) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for each phase of the stride, its elements of ``x`` (N, C, *spatial) and its part of ``flat``."""
    image = x.unflatten(1, (groups, -1))
    for phase, first in enumerate(itertools.product(*(range(s) for s in layout.stride))):
        start = LEAD + phase * layout.phase
        every = (slice(i, None, s) for i, s in zip(first, layout.stride))
        yield image[(..., *every)], flat[..., start : start + layout.phase]


def image_of(flat: Tensor, like: Tensor, layout: Layout) -> Tensor:
    """View (G, C, positions) as (N, G, C, *spatial), cropped to the size of ``like``."""
    image = flat.unflatten(-1, (-1, like.shape[0], *layout.cells[1:])).movedim(3, 0)
    return image[(..., *(slice(size) for size in like.shape[3:]))]
