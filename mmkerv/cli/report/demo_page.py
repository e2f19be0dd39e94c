"""The content of the demo's page."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mmkerv.cli.report.demo_record import DemoRecord
from mmkerv.cli.report.page import (
    Chart,
    Charts,
    Facts,
    KernelPairs,
    Kernels,
    OwnData,
    Page,
    Scenes,
    Section,
    Stat,
    Table,
    Words,
    render_page,
)
from mmkerv.cli.report.scenes import Scene
from mmkerv.utils import duration

BOX_METRICS = {'coco/bbox_mAP': 'mAP', 'coco/bbox_mAP_50': 'mAP_50', 'coco/bbox_mAP_75': 'mAP_75'}
NOT_TRAINED = Markup('not trained yet:<br><code>make demo-compare</code><br>trains it and fills this column')


@dataclass(frozen=True)
class Report:
    """Content of the page.

    Args:
        record: figures of the run.
        network: type of the network, such as ``'RetinaNet'``.
        operator: registered name of the operator in it.
        training: a sentence about the training.
        shape: height and width of the timed image.
        threshold: lowest score of the detections.
        scenes: pictures with boxes.
        charts: curves of the training.
        kernels: kernels of some layers.
        files: files of the run, name and meaning.

    Example:
        >>> list(Report.__dataclass_fields__)[:2]
        ['record', 'network']
    """

    record: DemoRecord
    network: str
    operator: str
    training: str
    shape: tuple[int, int]
    threshold: float
    scenes: Sequence[Scene]
    charts: Sequence[Chart]
    kernels: Sequence[Kernels]
    files: Sequence[tuple[str, str]]


def render_report(report: Report) -> str:
    """Return the page as HTML; see :func:`mmkerv.cli.report.page.render_page`.

    Example:
        >>> render_report(report)[:15]  # doctest: +SKIP
        '<!doctype html>'
    """
    record = report.record
    name = f'{report.network} with {report.operator}'
    about = f'{record.date[:10]} · seed {record.seed} · {duration(record.seconds)} in all'
    footer = Markup(
        'Made by <code>tools/demo.py</code> of mmkerv {}; <code>python tools/demo.py --report-only</code> rewrites it '
        'without training.'
    ).format(record.environment['mmkerv'])
    return render_page(
        Page(
            title=f'mmkerv demo: {name}',
            heading=f'{name}, trained and folded',
            lead=f'{report.training} Afterwards its operators were folded into plain convolutions, and both networks '
            'were evaluated on scenes they had not seen.',
            about=f'{about} · {record.environment["processor"]}',
            stats=_stats(record),
            sections=_sections(report),
            footer=footer,
        )
    )


def _metric(values: dict[str, float], key: str) -> str:
    return f'{values[key]:.3f}' if key in values else 'none found'


def _stats(record: DemoRecord) -> list[Stat]:
    first = next(iter(BOX_METRICS))
    trained, folded = record.milliseconds
    low, high = record.associations
    difference = f'{record.difference:.1e}' if record.difference else '0'
    return [
        Stat('box mAP once folded', _metric(record.after, first), f'{_metric(record.before, first)} before folding'),
        Stat('raw outputs differ by', difference, 'folded against trained, relative'),
        Stat('speed once folded', f'{trained / folded:.1f}×', f'{trained:.0f} → {folded:.0f} ms per image'),
        Stat('association |K − W| / |W|', f'{low:.3g} – {high:.3g}', 'of the layers; 0: plain'),
    ]


def _sections(report: Report) -> list[Section]:
    scenes = (
        f'The first {len(report.scenes)} held-out scenes, not selected: the ground truth, and the detections of the '
        f'two networks with a score of at least {report.threshold}. Where boxes of several classes overlap, only the '
        'best is drawn.'
    )
    evaluated = Markup(
        'Evaluated on the held-out scenes. The folded network is an ordinary one: <code>deploy.py</code> and '
        '<code>deploy.pth</code> run without mmkerv.'
    )
    kernels = (
        'Kernels of three layers at the start and at the end of the training. A tile is a group of four kernels that '
        'are associated; the super kernel that associates them is drawn at its left corner.'
    )
    own = Markup(
        "Images and annotations in COCO's JSON format are enough. Run the commands in mmkerv's folder, with its "
        'environment active (<code>source .venv/bin/activate</code>).'
    )
    return [
        Section('detections', 'Detections', [Scenes(report.scenes)], scenes),
        Section('comparison', 'Comparison', [_table(report), Words([_times(report)])], evaluated),
        Section('training', 'Training', [Charts(report.charts)]),
        Section('kernels', 'Kernels before and after training', [KernelPairs(report.kernels)], kernels, 'Kernels'),
        Section('own-data', 'Now with your own data', [OwnData()], own, 'Your own data'),
        Section('environment', 'Environment', _environment(report)),
    ]


def _table(report: Report) -> Table:
    record, plain = report.record, report.record.plain
    rows = []
    for key, label in BOX_METRICS.items():
        cells = [_metric(record.before, key), _metric(record.after, key)]
        rows.append((label if rows else f'box {label}', cells + ([_metric(plain['metrics'], key)] if plain else [])))
    counts = [*record.parameters, *([plain['parameters']] if plain else [])]
    times = [*record.milliseconds, *([plain['milliseconds']] if plain else [])]
    rows.append(('parameters', [f'{count:,}' for count in counts]))
    rows.append(('ms / image', [f'{time:.1f}' for time in times]))
    head = [f'{report.operator}, trained', 'folded', 'plain network']
    return Table('Table of the comparison', head, rows, '' if plain else NOT_TRAINED)


def _times(report: Report) -> str:
    height, width = report.shape
    return Markup(
        'Times are medians of forward passes on one {} × {} image, the networks in turn (threads: {}). The trained '
        'network computes its kernels at every call here; inside <code>mmkerv.ops.frozen_kernels</code>, as in '
        'validation, it computes them once.'
    ).format(height, width, report.record.environment['threads'])


def _environment(report: Report) -> list[Facts]:
    record = report.record
    facts = [
        ('date', f'{record.date[:16].replace("T", " ")} UTC'),
        ('wall time', duration(record.seconds)),
        ('seed', str(record.seed)),
        ('config', record.config),
        *record.environment.items(),
    ]
    if record.plain:
        facts.append(('plain network', f'{record.plain["config"]}, {duration(record.plain["seconds"])}'))
    files = [(meaning, name) for name, meaning in report.files]
    return [Facts(facts), Facts(files, 'Files of the run', short=False)]
