"""Measure direct and FFT convolutions, and fit the cost model of method='auto'.

python benchmarks/convolution_method.py [--device cuda]

Prints a table (forward and backward, medians) and the constants for mmkerv/ops/fft/cost_model.py.
"""

import argparse
import math

# Multiplications; for larger convolutions the choice is clear without a model.
LARGEST = 2e9


def shapes() -> list[tuple]:
    """Return (N, C, O, groups, input size, kernel size, padding) of sequences and images, dense and depthwise."""
    cases = []
    for length in (128, 784, 2048):
        for batch, channels, groups in ((16, 1, 1), (16, 30, 1), (4, 64, 1), (16, 32, 32)):
            cases += [(batch, channels, channels, groups, (length,), (size,), (0,)) for size in (7, 31, length // 2)]
    for side in (16, 32, 64):
        for batch, channels, groups in ((8, 16, 1), (4, 64, 1), (8, 64, 64)):
            for size in (3, 7, 15, side - 1):
                cases.append((batch, channels, channels, groups, (side,) * 2, (size,) * 2, (size // 2,) * 2))
    return [case for case in cases if work(case) < LARGEST]


def work(case: tuple) -> float:
    """Return the number of multiplications of a direct convolution."""
    batch, channels, outputs, groups, size, kernel, padding = case
    out = math.prod(n + 2 * p - k + 1 for n, k, p in zip(size, kernel, padding))
    return batch * outputs * channels // groups * math.prod(kernel) * out


def main() -> None:
    """Measure, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()

    import torch
    from torch.utils.benchmark import Timer

    from mmkerv.ops.core.convolve import convolve
    from mmkerv.ops.fft.convolution import fft_convolution
    from mmkerv.ops.fft.cost_model import costs

    if args.device.startswith('cuda') and not torch.cuda.is_available():
        raise SystemExit(f'--device {args.device}: torch sees no CUDA device; leave --device out to measure the CPU')

    rows = {'direct': [], 'fft': []}
    for case in shapes():
        batch, channels, outputs, groups, size, kernel, padding = case
        dims, sides = len(size), [(p, p) for p in padding]
        x = torch.randn(batch, channels, *size, device=args.device, requires_grad=True)
        k = torch.randn(outputs, channels // groups, *kernel, device=args.device, requires_grad=True)
        calls = {
            'direct': lambda: convolve(x, k, None, 1, padding, 1, groups),  # noqa: B023 called in this turn
            'fft': lambda: fft_convolution(x, k, None, sides, (1,) * dims, groups),  # noqa: B023
        }
        for method, call in calls.items():
            timer = Timer('call().sum().backward()', globals={'call': call}, num_threads=args.threads)
            seconds = (
                timer.timeit(1).median
                if work(case) > LARGEST / 4
                else timer.blocked_autorange(min_run_time=0.02).median
            )
            rows[method].append((seconds * 1e9, costs(x.shape, k.shape, sides, (1,) * dims, groups)))
    print(f'{"N, C, O, groups, input, kernel":55s} direct ms   fft ms  ratio')
    for case, (direct, _), (fft, _) in zip(shapes(), rows['direct'], rows['fft']):
        print(f'{case[:6]!s:55s} {direct / 1e6:9.2f} {fft / 1e6:8.2f} {fft / direct:6.2f}')
    names = {'direct': ('dense', 'depthwise', 'call'), 'fft': ('transform', 'product', 'taps', 'call')}
    for method, columns in names.items():
        measured = torch.tensor([t for t, _ in rows[method]], dtype=torch.float64)
        terms = torch.tensor([[getattr(c, n) for n in columns] for _, c in rows[method]], dtype=torch.float64)
        print(method, dict(zip(columns, [f'{v:.3g}' for v in fit(terms, measured)])))
    chosen = [direct < fft for (direct, _), (fft, _) in zip(rows['direct'], rows['fft'])]
    print(f'{sum(chosen)} of {len(chosen)} shapes are faster by direct convolution')


def fit(terms, measured) -> list[float]:
    """Return constants >= 0 of the model that fit the logarithms of the measurements best."""
    import torch

    free = torch.full((terms.shape[1],), math.log(0.1), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([free], 0.05)
    for _ in range(3000):
        optimizer.zero_grad()
        ((terms @ free.exp()).log() - measured.log()).square().mean().backward()
        optimizer.step()
    return free.exp().tolist()


if __name__ == '__main__':
    main()
