"""Plot curves of training runs or print their times: ``analyze_logs.py [plot_curve|cal_train_time] LOGS``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmkerv.cli import common

COMMANDS = ('plot_curve', 'cal_train_time')
# Styles of seaborn, which upstream's tools name, are matplotlib's under another name.
SEABORN = 'seaborn-v0_8-'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line: upstream's two commands, or mmsegmentation's flags without a command."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(description='Plot logged values of runs, or print the time of their iterations')
    commands = parser.add_subparsers(dest='task', required=True)
    logs = dict(nargs='+', metavar='LOGS', help='vis_data/*.json of runs, or their work folders')
    plot = commands.add_parser('plot_curve', help='draw curves; the default command')
    plot.add_argument('json_logs', **logs)
    plot.add_argument(
        '--keys',
        nargs='+',
        help='keys to draw, such as loss bbox_mAP; default the usual metric of the task and every loss',
    )
    plot.add_argument('--title', help='title of the figure')
    plot.add_argument('--legend', nargs='+', help='one label per key and log; default: run and key')
    plot.add_argument('--backend', help='matplotlib backend; an interactive one shows the curves unless --out is given')
    plot.add_argument('--style', help="matplotlib or seaborn style, such as 'ggplot' or 'whitegrid'")
    plot.add_argument(
        '--out',
        metavar='FILE',
        help='.png, .svg or .pdf to write; default curves.png in the work folder of the first run',
    )
    time = commands.add_parser('cal_train_time', help='print the mean time of an iteration')
    time.add_argument('json_logs', **logs)
    time.add_argument('--include-outliers', action='store_true', help='count the first value of each epoch too')
    flat = argv and argv[0] not in (*COMMANDS, '-h', '--help')
    args = parser.parse_args(['plot_curve', *argv] if flat else argv)
    if args.task == 'plot_curve':
        wanted = len(args.json_logs) * len(args.keys or ())
        if args.legend and not args.keys:
            plot.error('--legend needs --keys: it takes one label per key and log')
        if args.legend and len(args.legend) != wanted:
            plot.error(f'--legend takes one label per key and log, {wanted} in all, got {len(args.legend)}')
        if args.out and Path(args.out).suffix not in ('.png', '.svg', '.pdf'):
            plot.error(f'--out must end in .png, .svg or .pdf, got {args.out!r}')
    return args


def plot_curve(args: argparse.Namespace) -> None:
    """Read, draw, write or show."""
    from mmkerv.analysis.comparison.record import usual_keys
    from mmkerv.analysis.logs import loss_keys, read_log, run_names
    from mmkerv.engine.checkpoint.atomic_write import atomic_path
    from mmkerv.visualization.curves import draw_curves

    logs = [read_log(path) for path in args.json_logs]
    names = run_names([log.file for log in logs])
    drawn = [(name, log, key) for name, log in zip(names, logs) for key in args.keys or usual_keys(log)]
    labels = args.legend or [f'{name}: {key}' if len(logs) > 1 else key for name, _, key in drawn]
    curves = [(label, log.curve(key)) for label, (_, log, key) in zip(labels, drawn)]
    kinds = None if args.keys else ['loss' if key in loss_keys(log) else 'metric' for _, log, key in drawn]
    for label, curve in curves:
        print(f'{label}: {len(curve.y)} values, last {curve.y[-1]:.4g} at {curve.unit} {curve.x[-1]}')
    with style(args.style):
        figure, shown = canvas(args.backend)
        figure = draw_curves(curves, args.title, figure, kinds)
        if shown and not args.out:
            import matplotlib.pyplot

            matplotlib.pyplot.show()
            return
        out = args.out or logs[0].folder / 'curves.png'
        with atomic_path(out) as partial:
            figure.savefig(partial, format=Path(out).suffix[1:])
    print(f'wrote {out}')


def style(name: str | None) -> Any:
    """Return a context in which matplotlib has a style."""
    from difflib import get_close_matches

    import matplotlib.style

    from mmkerv.errors import ConfigError

    known = [*matplotlib.style.available, 'default']
    without_prefix = {style.removeprefix(SEABORN): style for style in known}
    name = name or 'default'
    if name in known:
        return matplotlib.style.context(name)
    if name not in without_prefix:
        near = get_close_matches(name, [*known, *without_prefix], n=3, cutoff=0.3)
        raise ConfigError(f'--style: matplotlib has no style {name!r}; the nearest are {", ".join(near or known)}')
    return matplotlib.style.context(without_prefix[name])


def canvas(backend: str | None) -> tuple[Any, bool]:
    """Return a figure of a backend and whether it can be shown; without a backend ``None``, as no display is needed."""
    if backend is None:
        return None, False
    import matplotlib

    from mmkerv.errors import ConfigError

    try:
        import matplotlib.pyplot

        matplotlib.pyplot.switch_backend(backend)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f'--backend {backend!r} cannot be used here: {str(error).splitlines()[0]}. Leave it out to write a file'
        ) from error
    figure = matplotlib.pyplot.figure(dpi=120, layout='constrained')
    return figure, hasattr(figure.canvas.manager, 'window')


def main(argv: Sequence[str] | None = None) -> None:
    """Plot, or print times."""
    args = parse_args(argv)

    from mmkerv import env

    env.require('mmengine')
    if args.task == 'plot_curve':
        plot_curve(args)
        return
    from mmkerv.analysis.logs import read_log, train_time

    for path in args.json_logs:
        log = read_log(path)
        print(f'-----Analyze train time of {path}-----\n{train_time(log, args.include_outliers)}\n')


if __name__ == '__main__':
    common.run(main)
