"""Measure direct and FFT convolutions, and fit the cost model of method='auto'.

python benchmarks/convolution_method.py [--device cuda]

Prints a table (forward and backward, medians) and the constants for mmkerv/ops/core/fft/cost_model.py.
"""

import argparse
import math
import statistics

# Multiplications; for larger convolutions the choice is clear without a model.
LARGEST = 2e9
# A second measurement of the direct form, whose ratio to the first is the noise.
CONTROL = 'A/A'
DIRECT, FFT = ('dense', 'depthwise', 'wide', 'call'), ('transform', 'product', 'taps', 'call')
# The counts of each model.
MODELS = {'training': {'direct': DIRECT, 'fft': FFT}, 'inference': {'direct': DIRECT, 'fft': FFT}}


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
    for channels, side, size in ((128, 56, 31), (128, 56, 51), (256, 28, 29), (512, 14, 27)):
        cases.append((1, channels, channels, channels, (side,) * 2, (size,) * 2, (size // 2,) * 2))
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
    parser.add_argument('--repeats', type=int, default=3, help='measurements of every form')
    args = parser.parse_args()

    import torch

    from mmkerv.ops.core.convolve import convolve_directly
    from mmkerv.ops.core.fft.convolution import fft_convolution
    from mmkerv.ops.core.fft.cost_model import costs, nanoseconds, prefers_fft

    if args.device.startswith('cuda') and not torch.cuda.is_available():
        raise SystemExit(f'--device {args.device}: torch sees no CUDA device; leave --device out to measure the CPU')

    rows = {(method, mode): [] for mode in MODELS for method in MODELS[mode]}
    controls = []
    print(f'{"N, C, O, groups, input, kernel":55s} direct ms   fft ms  ratio')
    for case in shapes():
        batch, channels, outputs, groups, size, kernel, padding = case
        dims, sides = len(size), [(p, p) for p in padding]
        x = torch.randn(batch, channels, *size, device=args.device, requires_grad=True)
        k = torch.randn(outputs, channels // groups, *kernel, device=args.device, requires_grad=True)
        count = costs(x.shape, k.shape, sides, (1,) * dims, groups)
        calls = {
            'direct': lambda: convolve_directly(x, k, None, 1, padding, 1, groups),  # noqa: B023 called in this turn
            'fft': lambda: fft_convolution(x, k, None, sides, (1,) * dims, groups),  # noqa: B023
        }
        for mode in MODELS:
            statement = 'call().sum().backward()' if mode == 'training' else 'call()'
            with torch.set_grad_enabled(mode == 'training'):
                times = interleaved(calls, statement, args)
            controls.append(times.pop(CONTROL) / times['direct'])
            for method, seconds in times.items():
                rows[method, mode].append((seconds * 1e9, count))
            direct, fft = (times[method] * 1e3 for method in calls)
            label = f'{case[:6]}{"" if mode == "training" else " forward"}'
            print(f'{label:55s} {direct:9.2f} {fft:8.2f} {fft / direct:6.2f}', flush=True)
    print(f'A/A: median {statistics.median(controls):.3f}, {min(controls):.3f} to {max(controls):.3f}')
    prices = {}
    for (method, mode), figures in rows.items():
        columns = MODELS[mode][method]
        measured = torch.tensor([t for t, _ in figures], dtype=torch.float64)
        terms = torch.tensor([[getattr(c, n) for n in columns] for _, c in figures], dtype=torch.float64)
        prices[method, mode] = dict(zip(columns, fit(terms, measured)))
        print(mode, method, {name: f'{price:.3g}' for name, price in prices[method, mode].items()})
    for mode in MODELS:
        direct, fft = rows['direct', mode], rows['fft', mode]
        fitted = [
            nanoseconds(count, prices['fft', mode]) < nanoseconds(count, prices['direct', mode]) for _, count in direct
        ]
        ours = [prefers_fft(count, gradients=mode == 'training') for _, count in direct]
        for name, chosen in (('these constants', fitted), ("the package's constants", ours)):
            times = [b if use else a for use, (a, _), (b, _) in zip(chosen, direct, fft)]
            best = [min(a, b) for (a, _), (b, _) in zip(direct, fft)]
            near = sum(time < 1.3 * least for time, least in zip(times, best))
            ratio = sum(times) / sum(best)
            print(
                f'{mode} by {name}: within 30 % of the best for {near} of {len(best)} shapes, total {ratio:.3f} of it'
            )


def interleaved(calls: dict, statement: str, args: argparse.Namespace) -> dict[str, float]:
    """Return the median seconds of each form, and of the direct form a second time."""
    import torch
    from torch.utils.benchmark import Timer

    forms, times = {**calls, CONTROL: calls['direct']}, {}
    for _ in range(args.repeats):
        for name, call in forms.items():
            timer = Timer(statement, globals={'call': call, 'torch': torch}, num_threads=args.threads)
            once = timer.timeit(1).median
            calls_of_20_ms = max(1, min(50, int(0.02 / once)))
            times.setdefault(name, []).append(timer.timeit(calls_of_20_ms).median if once < 0.02 else once)
    return {name: statistics.median(values) for name, values in times.items()}


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
