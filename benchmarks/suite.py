"""Run all benchmarks, each in its own process: tables, JSON files, pictures, and one page of results.

python benchmarks/suite.py                        the CPU set of `make bench`, under 15 minutes on 2 cores
python benchmarks/suite.py --full                 all networks, layers and kernels
python benchmarks/suite.py --device cuda --minutes 12    a GPU: its tests; float32, bfloat16, channels_last, compiled
python benchmarks/suite.py --gpu --small                 the same in miniature on the CPU, to see that it runs
python benchmarks/suite.py --report docs/speed --write docs/speed.md
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BEGIN = '<!-- begin: benchmarks/suite.py -->'
_OPS = 'ops --kernels polynomial gaussian l2 l1'
# Operators that do not take every convolution of a network, in those that they take.
_DEPTHWISE = (
    'networks convnext_tiny --batch 2 --repeats 7 --operators inceptiondw:where.names=depthwise_conv '
    'mix:where.names=depthwise_conv rec:where.names=depthwise_conv '
    'shiftwise:kernel_extent=51,where.names=depthwise_conv'
)
_PARTIAL = 'networks resnet50 --batch 2 --repeats 7 --operators p:where.names=conv2'
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
    'resnet50_operators': 'networks resnet50 --batch 2 --operators --repeats 7',
    'resnet50_operators_inference': 'networks resnet50 --batch 2 --operators --inference --repeats 7 --no-memory',
    'convnext_tiny_operators': 'networks convnext_tiny --batch 2 --operators --repeats 7',
    'convnext_tiny_operators_inference': (
        'networks convnext_tiny --batch 2 --operators --inference --repeats 7 --no-memory'
    ),
    'convnext_tiny_depthwise': _DEPTHWISE,
    'convnext_tiny_depthwise_inference': f'{_DEPTHWISE} --inference --no-memory',
    'resnet50_partial': _PARTIAL,
    'resnet50_partial_inference': f'{_PARTIAL} --inference --no-memory',
    'scaling': 'scaling',
    'distributed': 'distributed --network resnet18 --batch 4 --size 128 --repeats 5',
}
_RESNET = 'networks resnet50 --batch 64 --forms coc "coc recompute" "kerv stem" --repeats 9'
# For a GPU, the most wanted first: what --minutes leaves no time for comes last. Kernels by Triton are those of l1.
CUDA = {
    'tests': 'tests',
    'ops_float32': f'{_OPS} --batch 64 --compile --repeats 7',
    'resnet50_b64_float32': _RESNET,
    'resnet50_b64_bf16': f'{_RESNET} --amp bfloat16',
    'large_kernels_b16': 'ops --layers --large-kernels --batch 16 --repeats 5',
    'resnet50_b64_bf16_channels_last': f'{_RESNET} --amp bfloat16 --channels-last',
    'convnext_tiny_operators': 'networks convnext_tiny --batch 32 --operators --repeats 5',
    'resnet50_operators': 'networks resnet50 --batch 32 --operators --repeats 5',
    'ops_bf16': f'{_OPS} --batch 64 --amp bfloat16 --compile --repeats 7',
    'ops_channels_last': f'{_OPS} --batch 64 --channels-last --repeats 7',
    'resnet50_b64_bf16_compiled': f'{_RESNET} --amp bfloat16 --compile',
    'static_operators': 'ops --layers --static --repeats 5',
    'dynamic_operators': 'ops --layers --dynamic --batch 16 --repeats 5',
    'ckconv': 'ops --layers --ckconv',
    'scaling': 'scaling',
    'startup': 'startup',
}
# What --small adds to the commands of a script: its smallest setting.
SMALL = {
    'ops': '--batch 1 --repeats 1',
    'networks': '--batch 1 --size 64 --repeats 1',
    'scaling': '--operators conv CoC --repeats 1',
    'startup': '--repeats 1',
    'distributed': '--size 64 --repeats 1',
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmarks and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/bench'), help='folder of the records and pictures')
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument('--full', action='store_true', help='all benchmarks, not only those of `make bench`')
    chosen.add_argument('--gpu', action='store_true', help='those for a GPU, also with --device cpu')
    parser.add_argument('--small', action='store_true', help='in miniature: shows that they run, figures mean nothing')
    parser.add_argument(
        '--minutes', type=float, metavar='M', help='start none after this time, and name those that were not run'
    )
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
    """Run the benchmarks of a device; name at the end those that failed or were not run, and exit with 1 if any did."""
    from machine import Machine

    Machine(args.device).checked()
    if args.gpu or args.device != 'cpu':
        chosen = CUDA
    else:
        chosen = FULL if args.full else QUICK
    if unknown := [name for name in args.only or () if name not in chosen]:
        parser.error(f'--only: {unknown[0]!r} is not one of {", ".join(chosen)}')
    begin = time.monotonic()
    failed, left_out = [], []
    for name in args.only or chosen:
        start = time.monotonic()
        if args.minutes and start - begin > 60 * args.minutes:
            left_out.append(name)
            continue
        if subprocess.run(command(name, chosen[name], args), cwd=HERE.parent).returncode:
            failed.append(name)
        print(f'{name}: {time.monotonic() - start:.0f} s\n', flush=True)
    if left_out:
        print(f'not run within {args.minutes:g} minutes: {", ".join(left_out)}; --only runs them', flush=True)
    if failed:
        sys.exit(f'failed: {", ".join(failed)}')


def command(name: str, line: str, args: argparse.Namespace) -> list[str]:
    """Return the command of a benchmark, or of the tests for a GPU."""
    script, *options = shlex.split(line)
    if script == 'tests':
        return [sys.executable, '-m', 'pytest', '-q', '-m', 'gpu', '-p', 'no:cacheprovider', 'tests']
    if args.small:
        options += SMALL[script].split()
        # Compiled kernels are the same at any size, and take most of the time: one layer has to do.
        options += ['--layers', '512x7'] if script == 'ops' and not {'--layers', '--network'} & {*options} else []
        options += ['--operators', 'coc', 'kerv'] if script == 'networks' and '--operators' in options else []
    out = args.out.resolve()
    where = ['--device', args.device, '--json', str(out / f'{name}.json'), '--plot', str(out / f'{name}.png')]
    where += ['--threads', str(args.threads)] if args.threads else []
    return [sys.executable, str(HERE / f'{script}.py'), *options, *where]


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
