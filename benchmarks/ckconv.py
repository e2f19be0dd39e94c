"""Measurements of continuous kernels, for ``ops.py --ckconv``."""

import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

CHANNELS, BATCH, LENGTH = 30, 64, 784
LENGTHS = (1024, 2048, 4096, 8192, 16384)


def measure_ckconv(measure: Callable, record: Any) -> None:
    """Measure sequences and large kernels with ``measure`` of ops.py; record ratios, peak memory and the exponent."""
    import torch
    from timing import CONTROL, exponent
    from torch import nn

    from mmkerv.analysis.memory import peak_bytes
    from mmkerv.ops import CKConv1d, CKConv2d, frozen_kernels

    args, wanted = record.args, record.args.ckconv or ('sequences', 'frozen')

    class Given(nn.Module):
        """Causal convolution by some function with the kernel of a CKConv1d."""

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

    if 'sequences' in wanted:
        op, x = sequence(LENGTH, BATCH)
        forms = {'CKConv1d': op, CONTROL: op, 'FFT, broadcast': Given(op, broadcast)}
        measure(f'L {LENGTH}', forms, x, record, repeats=5)
        x.requires_grad_()
        peaks = {name: peak_bytes(partial(_train, form, x), x.device) for name, form in forms.items()}
        text = ', '.join(f'{name} {peak / 2**20:.0f} MiB' for name, peak in peaks.items())
        record.note(f'peak memory at L {LENGTH}: {text}', peak_bytes=peaks)
        op, x = sequence(4096, 2)
        measure('L 4096', {'CKConv1d': op, 'direct conv1d': Given(op, direct)}, x, record, repeats=3)
        seconds = {}
        for length in LENGTHS:
            op, x = sequence(length, 4)
            times = measure(f'L {length}', {'CKConv1d': op}, x, record, repeats=5)['CKConv1d']
            seconds[length] = statistics.median(times)
        slope = exponent([n * math.log2(n) for n in seconds], list(seconds.values()))
        record.note(
            f'time grows as (L log L)^{slope:.2f} from {LENGTHS[0]} to {LENGTHS[-1]}', seconds=seconds, slope=slope
        )
    if 'frozen' in wanted:
        for name, options in (('dense', {}), ('depthwise', {'groups': 64})):
            plain, again = (nn.Conv2d(64, 64, 7, padding=3, **options).to(args.device).eval() for _ in range(2))
            continuous = CKConv2d(64, 64, 7, padding=3, method='direct', **options).to(args.device).eval()
            for module in (plain, again, continuous):
                module.requires_grad_(False)
            x = torch.randn(args.batch, 64, 56, 56, device=args.device)
            with frozen_kernels(continuous):
                measure(
                    f'7x7 {name} b{args.batch}', {'conv': plain, CONTROL: again, 'frozen CKConv': continuous}, x, record
                )


def _train(module: Callable, x: Any) -> None:
    module(x).sum().backward()
