"""Run all benchmarks, each in its own process: tables, JSON files, pictures, and one page of results.

python benchmarks/suite.py                        the CPU set of `make bench`, under 15 minutes on 2 cores
python benchmarks/suite.py --full                 all networks, layers and kernels
python benchmarks/suite.py --device cuda --full   float32, bfloat16 autocast and compiled
python benchmarks/suite.py --report docs/speed --write docs/speed.md
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BEGIN = '<!-- begin: benchmarks/suite.py -->'
_OPS = 'ops --kernels polynomial gaussian l2 l1'
QUICK = {
    'startup': 'startup --repeats 5',
    'ops': f'{_OPS} --layers 64x56 512x7 --compile --repeats 7',
    'ckconv_frozen': 'ops --layers --ckconv frozen --repeats 15',
    'large_kernels': 'ops --layers --large-kernels --batch 1 --repeats 5',
    'resnet50_b2': 'networks resnet50 --batch 2 --forms coc --repeats 11',
    'resnet50_b16': 'networks resnet50 --batch 16 --forms coc --repeats 5',
    'resnet50_recompute': 'networks resnet50 --batch 16 --forms coc "coc recompute" --only-memory',
    'mobilenet_v3_small_b16': 'networks mobilenet_v3_small --batch 16 --repeats 9',
    'resnet50_inference': 'networks resnet50 --inference --forms coc --repeats 11',
    'retinanet_r50_b2': 'networks retinanet_r50 --batch 2 --size 640 --forms coc --repeats 3 --no-memory',
    'scaling': 'scaling --operators conv CoC gaussian --repeats 1',
}
FULL = {
    'startup': 'startup',
    'ops': f'{_OPS} --naive --compile --repeats 9',
    'ops_others': 'ops --kernels linear sigmoid euclidean manhattan',
    'ops_hrnet18': f'{_OPS} --network hrnet18',
    'ops_mobilenet_v3_small': f'{_OPS} --network mobilenet_v3_small',
    'ckconv_sequences': 'ops --layers --ckconv sequences',
    'ckconv_frozen': 'ops --layers --ckconv frozen',
    'static_operators': 'ops --layers --static --repeats 7',
    'dynamic_operators': 'ops --layers --dynamic --batch 2 --repeats 7',
    'large_kernels': 'ops --layers --large-kernels --batch 1 --repeats 9',
    'resnet50_b2': 'networks resnet50 --batch 2 --forms coc "coc recompute" stnd --repeats 15',
    'resnet50_b16': 'networks resnet50 --batch 16 --forms coc "coc recompute" "kerv stem" ck --repeats 9',
    'resnet50_orth': 'networks resnet50 --batch 2 --forms orth --repeats 5',
    'hrnet18_b2': 'networks hrnet18 --batch 2 --forms coc --repeats 9',
    'shufflenet_v2_b16': 'networks shufflenet_v2 --batch 16 --repeats 11',
    'mobilenet_v3_small_b16': 'networks mobilenet_v3_small --batch 16 --repeats 11',
    'retinanet_r50_b2': 'networks retinanet_r50 --batch 2 --size 640 --forms coc --repeats 7',
    'fcn_r50d8_b2': 'networks fcn_r50d8 --batch 2 --size 512 --forms coc --repeats 5',
    'resnet50_inference': 'networks resnet50 --inference --forms coc ck --repeats 21',
    'shufflenet_v2_inference': 'networks shufflenet_v2 --inference --repeats 21',
    'mobilenet_v3_small_inference': 'networks mobilenet_v3_small --inference --repeats 21',
    'retinanet_r50_inference': 'networks retinanet_r50 --inference --batch 1 --size 640 --forms coc --repeats 9',
    'scaling': 'scaling',
}
_GPU_NUMBERS = {'float32': '', 'bf16': '--amp bfloat16', 'bf16_compiled': '--amp bfloat16 --compile'}
CUDA = {
    f'{name}_{numbers}': f'{command} {options}'
    for numbers, options in _GPU_NUMBERS.items()
    for name, command in {
        'ops': 'ops --batch 64',
        'resnet50_b64': 'networks resnet50 --batch 64 --forms coc "coc recompute" "kerv stem" --repeats 15',
    }.items()
} | {'scaling': 'scaling', 'ckconv': 'ops --layers --ckconv', 'startup': 'startup'}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmarks and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/bench'), help='folder of the records and pictures')
    parser.add_argument('--full', action='store_true', help='all benchmarks, not only those of `make bench`')
    parser.add_argument('--only', nargs='+', help='names of the benchmarks to run')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N')
    parser.add_argument('--threads', type=int, help="torch's threads on the CPU; default: its own choice")
    parser.add_argument('--report', type=Path, metavar='FOLDER', help='run nothing, print the records of this folder')
    parser.add_argument('--write', metavar='FILE', help='document to write the tables to, between its markers')
    args = parser.parse_args(argv)

    from mmkerv.cli.common import between_markers

    output = between_markers(args.write, BEGIN) if args.write else print
    if not args.report:
        measure_all(parser, args)
    output(page(args.report or args.out))


def measure_all(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Run the benchmarks of a device; exit at the first that fails."""
    import shlex

    from machine import Machine

    Machine(args.device).checked()
    if args.device != 'cpu':
        chosen = CUDA
    else:
        chosen = FULL if args.full else QUICK
    if unknown := [name for name in args.only or () if name not in chosen]:
        parser.error(f'--only: {unknown[0]!r} is not one of {", ".join(chosen)}')
    for name in args.only or chosen:
        script, *options = shlex.split(chosen[name])
        where = ['--device', args.device, '--json', args.out / f'{name}.json', '--plot', args.out / f'{name}.png']
        where += ['--threads', args.threads] if args.threads else []
        start = time.monotonic()
        command = [sys.executable, HERE / f'{script}.py', *options, *where]
        if status := subprocess.run(list(map(str, command))).returncode:
            sys.exit(status)
        print(f'{name}: {time.monotonic() - start:.0f} s\n', flush=True)


def page(folder: Path) -> str:
    """Return the tables of all records in a folder."""
    files = sorted(folder.glob('*.json'))
    if not files:
        raise FileNotFoundError(f'{folder} has no records; run benchmarks/suite.py --out {folder} first')
    return '\n\n'.join(section(json.loads(file.read_text()), file.stem) for file in files)


def section(record: dict[str, Any], name: str) -> str:
    """Return the table of one record."""
    from record import compared

    shown = compared(record['rows'])
    lines = [f'**{name}**: {record["about"]}.', '']
    if shown:
        lines += ['| case | form | ratio | 95 % interval | A/A | bound |', '|---|---|---|---|---|---|']
    for row in shown:
        spread = f'{row["low"]:.3f} to {row["high"]:.3f}' if row['high'] > row['low'] else ''
        control = f'{row["control"]:.3f}' if row['control'] is not None else ''
        bound = f'{row["bound"]:g}, {"holds" if row["holds"] else "**missed**"}' if 'bound' in row else ''
        lines.append(f'| {row["case"]} | {row["form"]} | {row["median"]:.3f} | {spread} | {control} | {bound} |')
    notes = [f'* {" ".join(row["note"].split())}' for row in record['rows'] if 'note' in row]
    return '\n'.join(lines + ([''] if shown and notes else []) + notes)


if __name__ == '__main__':
    sys.path[:0] = [str(HERE.parent)]
    from mmkerv.cli.common import run

    run(main)
