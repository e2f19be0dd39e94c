"""The kervolution paper's MNIST study (section 4, Figures 1 and 2, Table 1) on complete MNIST.

python benchmarks/mnist_study.py search      search the settings that the paper leaves open: one seed, three epochs each
python benchmarks/mnist_study.py distances   search a setting in which the L1 and L2 norm learn, in the same way
python benchmarks/mnist_study.py run         do every run with three seeds; continues after an interruption
python benchmarks/mnist_study.py report      write the tables and plots of the records
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('phase', choices=['search', 'distances', 'run', 'report'])
    parser.add_argument('--data', type=Path, default=Path('data/mnist'), help='folder of the four files of MNIST')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/mnist_study'), help='records and networks')
    parser.add_argument(
        '--docs',
        type=Path,
        default=Path('docs/mnist_study'),
        help='folder of the report and of the records of earlier studies (records.json), whose runs are not repeated',
    )
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--workers', type=int, default=2, help='processes of one thread each')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--only', help='regular expression of the configs to run')
    parser.add_argument('--quick', action='store_true', help='smoke test: one seed, one epoch of 500 images')
    return parser.parse_args()


def main() -> None:
    """Do one phase."""
    args = parse_args()

    import re
    from functools import partial

    import torch
    from mnist.report import write_report
    from mnist.study import complete, distance_jobs, run_jobs, search_jobs

    if args.phase != 'report' and args.device.startswith('cuda') and not torch.cuda.is_available():
        raise SystemExit(f'--device {args.device}: torch sees no CUDA device; leave --device out to measure the CPU')
    limit, epochs, seeds = (500, 1, 1) if args.quick else (None, None, args.seeds)
    tell = partial(print, flush=True)
    out = args.out / 'quick' if args.quick else args.out
    archive = None if args.quick else args.docs / 'records.json'
    if args.phase == 'report':
        write_report(out, archive, args.docs)
        return
    searches = {'search': search_jobs, 'distances': distance_jobs}
    jobs = searches[args.phase](limit) if args.phase in searches else run_jobs(seeds, epochs, limit)
    if args.only:
        jobs = [job for job in jobs if re.search(args.only, job.config)]
    complete(jobs, out / args.phase, archive, args.data, args.workers, args.device, tell)


if __name__ == '__main__':
    main()
