"""The page of a comparison of operators."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmkerv.analysis.comparison.record import DONE, Run
from mmkerv.analysis.comparison.results import cells, headings, notes
from mmkerv.analysis.logs import Curve, read_run
from mmkerv.cli.report.charts import COLORS, Line, line_chart
from mmkerv.cli.report.page import Chart, Charts, Facts, Page, Section, Stat, Table, Words, render_page
from mmkerv.engine.checkpoint.atomic_write import atomic_path
from mmkerv.errors import ConfigError

PAGE_FILE = 'report.html'
# Figures at the head of the page.
STATS = 4


def write_comparison_page(found: dict[str, Any], runs: Sequence[Run], work: Path) -> Path:
    """Write ``report.html`` into the folder of a comparison and return its path.

    Args:
        found: results, as ``results.json`` has them.
        runs: the runs.
        work: the folder.

    Example:
        >>> write_comparison_page(found, runs, Path('work_dirs/compare_a'))  # doctest: +SKIP
        PosixPath('work_dirs/compare_a/report.html')
    """
    page = work / PAGE_FILE
    with atomic_path(page) as temporary:
        temporary.write_text(render_page(comparison_page(found, curves_of(found, runs), work)), encoding='utf-8')
    return page


def comparison_page(found: dict[str, Any], curves: Mapping[str, Mapping[str, Curve]], work: Path) -> Page:
    """Return the content of the page.

    Args:
        found: results.
        curves: for each key of the logs the curve of each operator.
        work: folder of the comparison.

    Example:
        >>> comparison_page(found, {}, Path('work_dirs/compare_a')).title  # doctest: +SKIP
        'mmkerv: operators on retinanet_shapes'
    """
    name, facts = Path(found['config']).stem, found['environment']
    specs = [row['operator'] for row in found['rows']]
    seeds = f'{found["seeds"]} seed{"s" if found["seeds"] > 1 else ""}'
    rows = [(first, rest) for first, *rest in map(cells, found['rows'])]
    charts = [chart(key, by_operator, f'c{i}') for i, (key, by_operator) in enumerate(curves.items())]
    machine = facts['GPU'] if facts['GPU'] != 'none used' else facts['processor']
    sections = [
        Section('results', 'Results', [Table('Table of the results', headings(found)[1:], rows), Words(notes(found))]),
        Section('environment', 'Environment', _environment(found, work)),
    ]
    if charts:
        text = (
            'Mean over the finished seeds, where they were logged at the same positions; else of the first seed. An '
            'operator that has no finished run is shown by those that are not, and marked.'
        )
        sections.insert(1, Section('curves', 'Curves', [Charts(charts)], text))
    return Page(
        title=f'mmkerv: operators on {name}',
        heading=f'{", ".join(specs)} on {name}',
        lead=f'{found["schedule"].partition(";")[0].capitalize()}, {seeds}; differences are paired, from '
        f'{found["reference"]}.',
        about=f'{found["date"][:10]} · {machine}',
        stats=stats(found),
        sections=sections,
        footer=Markup(
            'Made by <code>mmkerv compare</code> of mmkerv {}. A page of one of its runs: <code>mmkerv report {}</code>'
        ).format(facts['mmkerv'], work / '...'),
    )


def stats(found: dict[str, Any]) -> list[Stat]:
    """Return the differences as figures for the head of the page.

    Example:
        >>> stats({'rows': [], 'reference': 'plain', 'metric': 'mIoU'})
        []
    """
    figures = []
    for row in found['rows']:
        if row['difference']:
            figure, verdict = cells(row)[2:4]
            number, _, interval = figure.partition(' ')
            note = ', '.join(filter(None, (verdict, interval and f'95 % {interval}')))
            figures.append(Stat(f'{row["operator"]}, {found["metric"]}', number, note))
    return figures[:STATS]


def curves_of(found: dict[str, Any], runs: Sequence[Run]) -> dict[str, dict[str, Curve]]:
    """Return the curves of loss and metric by key and operator: means over the finished seeds.

    An operator without a finished run has those of its other runs, with ``(unfinished)`` behind its name.

    Example:
        >>> curves_of({'metric': 'mIoU'}, [])
        {}
    """
    curves: dict[str, dict[str, list[Curve]]] = {}
    done = [run for run in runs if (run.record() or {}).get('status') == DONE]
    finished = {run.variant.spec for run in done}
    for run in runs:
        if run.variant.spec in finished and run not in done:
            continue
        name = run.variant.spec if run in done else f'{run.variant.spec} (unfinished)'
        try:
            log = read_run(run.folder)
        except (OSError, ConfigError):
            # Not run, or it failed before it logged anything.
            continue
        for key in ('loss', found['metric']):
            if key in log.keys:
                curves.setdefault(key, {}).setdefault(name, []).append(log.curve(key))
    return {key: {spec: mean_curve(each) for spec, each in own.items()} for key, own in curves.items()}


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the mean of curves with the same positions as the first.

    Example:
        >>> mean_curve([Curve('epoch', [1, 2], [0.0, 1.0]), Curve('epoch', [1, 2], [1.0, 2.0])]).y
        [0.5, 1.5]
    """
    same = [curve.y for curve in curves if curve.x == curves[0].x]
    # Not fmean, which refuses the mean of infinities of both signs.
    return Curve(curves[0].unit, curves[0].x, [sum(values) / len(values) for values in zip(*same)])


def chart(key: str, curves: Mapping[str, Curve], prefix: str) -> Chart:
    """Draw one key of the logs for all operators.

    Example:
        >>> chart('loss', {'plain': Curve('iteration', [1, 2], [2.0, 1.0])}, 'a').text
        'loss by iteration; at the end plain 1.'
    """
    lines = [
        Line(spec, curve.x, curve.y, i % COLORS, dashed=i >= COLORS) for i, (spec, curve) in enumerate(curves.items())
    ]
    unit = next(iter(curves.values())).unit
    ends = ', '.join(f'{spec} {curve.y[-1]:.3g}' for spec, curve in curves.items())
    return Chart(key, line_chart(lines, unit, key.rpartition('/')[2], prefix), f'{key} by {unit}; at the end {ends}.')


def _environment(found: dict[str, Any], work: Path) -> list[Facts]:
    facts = [
        ('date', f'{found["date"][:16].replace("T", " ")} UTC'),
        ('config', found['config']),
        ('schedule', found['schedule']),
        *((key, str(value)) for key, value in found['options'].items()),
        *found['environment'].items(),
    ]
    files = [
        ('the command', found['command']),
        ('all figures of this page', str(work / 'results.json')),
        ('the table as markdown', str(work / 'results.md')),
        ('logs, weights and folded weights of each run', str(work / 'OPERATOR' / 'seed_N')),
    ]
    return [Facts(facts), Facts(files, 'Command and files', short=False)]
