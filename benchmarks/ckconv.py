"""Continuous kernels: what ``ops.py --ckconv`` measures."""

import argparse
import math
from collections.abc import Callable
from functools import partial

CHANNELS, BATCH, LENGTH = 30, 64, 784
LENGTHS = (1024, 2048, 4096, 8192, 16384)


def measure_ckconv(measure: Callable, args: argparse.Namespace) -> list[dict]:
    """Measure sequences and large kernels with ``measure`` of ops.py; print ratios, peak memory and the slope."""
    import torch
    from memory import peak_bytes
    from torch import nn

    from mmkerv.ops import CKConv1d, CKConv2d, frozen_kernels

    class Given(nn.Module):
        """A form of causal convolution with the kernel that a CKConv1d samples."""

        def __init__(self, op: CKConv1d, form: Callable):
            super().__init__()
            self.op, self.form = op, form

        def forward(self, x):
            return self.form(x, self.op.kernel())

    def broadcast(x, kernel):
        length = 2 * x.shape[-1] - 1
        product = torch.fft.rfft(x, length)[:, None] * torch.fft.rfft(kernel.flip(-1), length)
        return torch.fft.irfft(product.sum(2), length)[..., : x.shape[-1]]

    def direct(x, kernel):
        return nn.functional.conv1d(nn.functional.pad(x, (x.shape[-1] - 1, 0)), kernel)

    def sequence(length: int, batch: int) -> tuple[CKConv1d, torch.Tensor]:
        op = CKConv1d(CHANNELS, CHANNELS, length, bias=False).to(args.device)
        return op, torch.randn(batch, CHANNELS, length, device=args.device)

    op, x = sequence(LENGTH, BATCH)
    forms = {'CKConv1d': op, 'A/A': op, 'FFT, broadcast': Given(op, broadcast)}
    rows = measure(f'L {LENGTH}', forms, x, args, repeats=5)
    x.requires_grad_()
    peaks = {name: peak_bytes(partial(_train, form, x), x.device) for name, form in forms.items()}
    print(f'peak memory at L {LENGTH}: ' + ', '.join(f'{name} {peak / 2**20:.0f} MiB' for name, peak in peaks.items()))
    rows.append({'layer': f'L {LENGTH}', 'peak_bytes': peaks})
    op, x = sequence(4096, 2)
    rows += measure('L 4096', {'CKConv1d': op, 'direct conv1d': Given(op, direct)}, x, args, repeats=3)
    seconds = {}
    for length in LENGTHS:
        op, x = sequence(length, 4)
        seconds[length] = measure(f'L {length}', {'CKConv1d': op}, x, args, repeats=5)[0]['seconds']
    slope = _slope([math.log(n * math.log2(n)) for n in seconds], [math.log(s) for s in seconds.values()])
    print('seconds: ' + ', '.join(f'{n}: {s:.4f}' for n, s in seconds.items()))
    print(f'time grows as (L log L)^{slope:.2f} from {LENGTHS[0]} to {LENGTHS[-1]}', flush=True)
    rows.append({'layer': 'growth', 'seconds': seconds, 'exponent_of_L_log_L': slope})
    for name, options in (('dense', {}), ('depthwise', {'groups': 64})):
        plain, again = (nn.Conv2d(64, 64, 7, padding=3, **options).to(args.device).eval() for _ in range(2))
        continuous = CKConv2d(64, 64, 7, padding=3, method='direct', **options).to(args.device).eval()
        x = torch.randn(args.batch, 64, 56, 56, device=args.device)
        with frozen_kernels(continuous):
            rows += measure(f'7x7 {name}', {'conv': plain, 'A/A': again, 'frozen CKConv': continuous}, x, args, 5)
    return rows


def _train(module, x) -> None:
    module(x).sum().backward()


def _slope(x: list[float], y: list[float]) -> float:
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x) ** 2 for a in x)
