"""Causal convolution of irregularly sampled sequences."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmkerv.errors import ArgumentError, ArgumentTypeError
from mmkerv.ops.core.precision import convolution_type, full_precision
from mmkerv.ops.core.tracing import is_transformed

# Maximum number of kernel values in memory at once.
CHUNK = 2**22


def irregular_convolution(
    x: Tensor,
    times: Tensor,
    values: Callable[[Tensor], Tensor],
    memory: float,
    width: int,
    groups: int,
    dtype: torch.dtype = torch.float32,
    hidden: int = 1,
) -> Tensor:
    r"""Convolve irregularly spaced samples: :math:`y_i = \sum_{j: 0 \le t_i - t_j \le m} \psi(t_i - t_j) x_j`.

    Outputs are computed in chunks, which bounds the memory; in training each chunk is recomputed for the gradient.

    Args:
        x: (N, C, L).
        times: (L,), or (N, L) if they differ between sequences; strictly increasing.
        values: function that returns the kernel (O * width, P) at lags (P,).
        memory: largest lag m at which the kernel is applied.
        width: input channels of each group.
        groups: number of groups of channels.
        dtype: type in which the kernel is computed.
        hidden: numbers that ``values`` keeps in memory per lag, if there are more of them than kernel values.

    Returns:
        (N, O, L), in the type that a convolution would return.

    Raises:
        ValueError: if ``times`` have another shape, are not finite, or do not increase.
        TypeError: if ``times`` is not a tensor.

    Example:
        >>> decay = lambda lags: torch.exp(-lags)[None]
        >>> x, times = torch.ones(1, 1, 3), torch.tensor([0.0, 1.0, 5.0])
        >>> irregular_convolution(x, times, decay, 9.0, 1, 1).flatten().tolist()
        [1.0, 1.3678..., 1.0250...]
    """
    if not isinstance(times, Tensor):
        raise ArgumentTypeError(f'times must be a tensor, got {times!r} ({type(times).__name__})')
    if x.dim() != 3 or tuple(times.shape) not in ((x.shape[-1],), (x.shape[0], x.shape[-1])):
        raise ArgumentError(
            f'times must be (L,) or (N, L) for x (N, C, L), got {tuple(times.shape)} for {tuple(x.shape)}'
        )
    rounding = torch.finfo(times.dtype).eps if times.is_floating_point() else 0.0
    given_type, times = times.dtype, times.to(x.device, torch.float64)
    if not bool(torch.isfinite(times).all()) or not bool((times.diff(dim=-1) > 0).all()):
        if rounding and (spacing := _rounded_together(times, rounding)):
            raise ArgumentError(
                f'times must be finite and strictly increasing, got {given_type} near {float(times.abs().max()):.4g}, '
                f'where that type holds multiples of {spacing:g} only: samples that are closer have equal times. '
                'Subtract the first time in float64 (or as integers), or pass times as float64'
            )
        raise ArgumentError(
            'times must be finite and strictly increasing; sort the samples by time, and merge those of equal time'
        )
    result_type = convolution_type(x)
    if times.dim() == 2:
        rows = [
            irregular_convolution(x[n : n + 1], times[n], values, memory, width, groups, dtype, hidden)
            for n in range(len(x))
        ]
        if rows:
            return torch.cat(rows)
        times = torch.arange(x.shape[-1], dtype=torch.float64, device=x.device)

    # A lag that exceeds the largest one only by the rounding of its two times is still included.
    slack = max(1e-9, 4 * rounding * float(times.detach().abs().max()) if times.numel() else 0.0)

    def chunk(x: Tensor, start: int, stop: int) -> Tensor:
        lags = times[start:stop, None] - times[None, :stop]
        kernel = values(lags.clamp(0, memory).flatten().to(dtype)).view(groups, -1, width, stop - start, stop)
        kernel = kernel * ((lags >= 0) & (lags <= memory + slack))
        signal = x[..., :stop].reshape(len(x), groups, width, stop)
        return torch.einsum('ngwj,gowij->ngoi', signal, kernel).flatten(1, 2)

    length = x.shape[-1]
    with full_precision(x.device):
        signal = x.to(dtype)
        channels = len(values(times.new_zeros(1).to(dtype)))
        step = max(1, CHUNK // max(1, max(channels, hidden) * length))
        parts = []
        for start in range(0, length, step):
            stop = min(length, start + step)
            # Transforms of torch.func take no checkpoints.
            if torch.is_grad_enabled() and step < length and not is_transformed():
                parts.append(checkpoint(chunk, signal, start, stop, use_reentrant=False))
            else:
                parts.append(chunk(signal, start, stop))
        y = torch.cat(parts, -1) if parts else signal.new_zeros(len(x), channels // width, 0)
    return y.to(result_type)


def _rounded_together(times: Tensor, rounding: float) -> float | None:
    """Return the distance of neighbouring numbers at the largest time if that made times equal, else ``None``."""
    steps = times.diff(dim=-1)
    if not bool(torch.isfinite(times).all()) or bool((steps < 0).any()):
        return None
    spacing = rounding * 2.0 ** math.floor(math.log2(max(float(times.abs().max()), 1e-300)))
    # Steps that are left are multiples of the distance; where samples truly are at one time, steps are much larger.
    smallest = float(steps[steps > 0].min()) if bool((steps > 0).any()) else 1.0
    return spacing if 4 * spacing > smallest else None
