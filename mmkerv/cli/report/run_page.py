"""The page of any run, from its work folder."""

import math
import re
from pathlib import Path
from statistics import median

from markupsafe import Markup
from mmengine.config import Config
from torch import nn

from mmkerv.analysis.comparison.cost import Cost, cost
from mmkerv.analysis.comparison.record import main_metric, metrics
from mmkerv.analysis.comparison.results import short
from mmkerv.analysis.logs import Curve, Log, loss_keys, read_run, runs_below
from mmkerv.analysis.machine import environment
from mmkerv.cli.report.charts import COLORS, Line, line_chart
from mmkerv.cli.report.demo_record import RECORD_FILE
from mmkerv.cli.report.demo_report import write_demo_report
from mmkerv.cli.report.kernels import draw_kernels, starting_model
from mmkerv.cli.report.page import (
    Block,
    Chart,
    Charts,
    Facts,
    KernelPairs,
    Page,
    Scenes,
    Section,
    Stat,
    Table,
    Words,
    render_page,
)
from mmkerv.cli.report.predictions import predicted_scenes
from mmkerv.deploy.trained_model import load_trained
from mmkerv.engine.checkpoint.atomic_write import atomic_path
from mmkerv.engine.config.read import load_config
from mmkerv.engine.config.schedule import UNITS
from mmkerv.errors import ConfigError, UserError
from mmkerv.models.layers import find_operators
from mmkerv.utils import printable
from mmkerv.work_folder import LAST_CHECKPOINT, best_checkpoints, configs_of, named_checkpoint, other_checkpoints

PAGE_FILE = 'report.html'
IMAGES = 6
# Parts of the page that a run may lack, such as the data of another machine, end in one of these.
LACKING = (UserError, OSError, AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError)


def write_run_report(work: str | Path, images: int = IMAGES) -> Path:
    """Write ``report.html`` into the work folder of a run and return its path; of a demo, the demo's own page.

    Args:
        work: folder of a training.
        images: number of test images with predictions.

    Raises:
        FileNotFoundError: if the folder holds no log.
        ConfigError: if the log or the config cannot be read, or the folder holds those of several runs.

    Example:
        >>> write_run_report('work_dirs/resnet18_shapes')  # doctest: +SKIP
        PosixPath('work_dirs/resnet18_shapes/report.html')
    """
    work = Path(work)
    if (work / RECORD_FILE).is_file():
        return write_demo_report(work)
    _require_one_run(work)
    log, config = read_run(work), config_of(work)
    page = run_page(work, log, load_config(str(config)), config, images)
    with atomic_path(work / PAGE_FILE) as temporary:
        temporary.write_text(render_page(page), encoding='utf-8')
    return work / PAGE_FILE


def _require_one_run(work: Path) -> None:
    """Refuse a folder of runs, such as that of an operator or of a comparison: it has a config, too."""
    runs = runs_below(work)
    if runs and work not in runs:
        raise ConfigError(f'{work} is no run, it holds {len(runs)}: give the folder of one, such as {runs[0]}')


def config_of(work: Path) -> Path:
    """Return the config that a training has written into its work folder.

    Raises:
        FileNotFoundError: if there is none.

    Example:
        >>> config_of(Path('absent'))
        Traceback (most recent call last):
        ...
        FileNotFoundError: absent holds no config of a run (NAME.py); give the work_dir of tools/train.py
    """
    files = configs_of(work)
    if not files:
        raise FileNotFoundError(f'{work} holds no config of a run (NAME.py); give the work_dir of tools/train.py')
    if len(files) > 1:
        others = ', '.join(file.name for file in files[1:])
        print(f'{work}: the page is that of {files[0].name}, the newest config; others are {others}')
    return files[0]


def run_page(work: Path, log: Log, cfg: Config, config: Path, images: int) -> Page:
    """Return the content of the page.

    Args:
        work: folder of the run.
        log: its log.
        cfg: its config.
        config: file of the config.
        images: number of test images with predictions.

    Example:
        >>> run_page(work, read_run(work), cfg, config, 4).title  # doctest: +SKIP
        'mmkerv: resnet18_shapes'
    """
    best, missing = best_checkpoints(work), []
    # As the other tools: the best checkpoint, where one metric says which one that is.
    checkpoint = best[0] if len(best) == 1 else named_checkpoint(work)
    others = other_checkpoints(work)
    if checkpoint is None and not best and len(others) == 1:
        checkpoint = others[0]
    last, counts, model = metrics(log), None, None
    try:
        counts = cost(cfg)
    except LACKING as error:
        missing.append(_lacking('what was replaced', error))
    if checkpoint is None:
        several = [*best, *others]
        why = f'{LAST_CHECKPOINT} names none of its {len(several)} checkpoints' if several else 'it has no checkpoint'
        missing.append(f'No predictions and no kernels of the run: {why}.')
    else:
        try:
            cfg, model = load_trained(str(config), checkpoint)
        except LACKING as error:
            missing.append(_lacking('predictions and kernels', error))
    sections = [
        Section('results', 'Results', _results(log)),
        Section('curves', 'Curves', [Charts(charts(log))], 'Values as logged.'),
    ]
    if counts:
        sections.append(Section('network', 'Network', _network(counts), short='Replaced'))
    if model is not None:
        try:
            scenes = predicted_scenes(cfg, model, images)
            text = f'The first test images, at most {images}, not selected; with {checkpoint.name}.'
            sections.append(Section('predictions', 'Predictions', [Scenes(scenes)], text))
        except LACKING as error:
            missing.append(_lacking('predictions', error))
        try:
            sections.append(_kernels(work, cfg, model, checkpoint.name))
        except LACKING as error:
            missing.append(_lacking('kernels', error))
    if missing:
        sections.append(Section('missing', 'Not on this page', [Words(missing)], short='Missing'))
    sections.append(Section('environment', 'Environment', _environment(work, log, cfg, config, checkpoint)))
    facts = environment()
    begun = _begun(work, log)
    return Page(
        title=f'mmkerv: {config.stem}',
        heading=config.stem,
        lead=f'A training of {_network_name(cfg)}, {_length(cfg)}.',
        about=' · '.join(filter(None, (begun and f'begun {_date(begun)}', f'seed {_seed(cfg)}'))),
        stats=_stats(log, last, counts),
        sections=sections,
        footer=Markup('Made by <code>mmkerv report</code> of mmkerv {}.').format(facts['mmkerv']),
    )


def charts(log: Log) -> list[Chart]:
    """Draw the losses of a run, and its metrics: those of one kind in one chart.

    Example:
        >>> charts(Log(Path('a'), [{'loss': 2.0, 'step': 1}, {'loss': 1.0, 'step': 2}], []))[0].text
        'By iteration; at the end loss 1.'
    """
    losses = loss_keys(log)
    drawn = [_chart('Loss', 'loss', {key: log.curve(key) for key in losses[:COLORS]}, 'loss')] if losses else []
    last = metrics(log)
    usual = main_metric([last]) if last else None
    if usual:
        # Those beside the usual one that have its scale: parts of one evaluation.
        kind = usual.rpartition('/')[0]
        names = [usual, *(key for key in last if key != usual and key.rpartition('/')[0] == kind)]
        curves = {key.rpartition('/')[2]: log.curve(key) for key in names[:3]}
        drawn.append(_chart('Evaluation', usual.rpartition('/')[2], curves, 'metric'))
    if 'lr' in log.keys:
        drawn.append(_chart('Learning rate', 'lr', {'lr': log.curve('lr')}, 'lr'))
    return drawn


def _chart(title: str, label: str, curves: dict[str, Curve], prefix: str) -> Chart:
    unit = next(iter(curves.values())).unit
    lines = [Line(name, curve.x, curve.y, number) for number, (name, curve) in enumerate(curves.items())]
    ends = ', '.join(f'{name} {curve.y[-1]:.3g}' for name, curve in curves.items())
    return Chart(title, line_chart(lines, unit, label, prefix), f'By {unit}; at the end {ends}.')


def _stats(log: Log, last: dict[str, float], counts: Cost | None) -> list[Stat]:
    stats = []
    if last:
        usual = main_metric([last])
        best = _highest(log.curve(usual))
        stats.append(Stat(usual, f'{last[usual]:.4g}', f'last evaluation; highest {best:.4g}'))
    if 'loss' in log.keys:
        loss = log.curve('loss').y
        stats.append(Stat('loss', f'{loss[-1]:.3g}', f'from {loss[0]:.3g}'))
    if times := [line['time'] for line in log.train if 'time' in line]:
        stats.append(Stat('time of a step', f'{median(times):.3g} s', 'median of the logged times'))
    if counts and counts.complexity:
        height, width = counts.shape
        folded = f'{short(counts.complexity.folded_parameters)} folded'
        stats.append(Stat('parameters', short(counts.complexity.parameters), f'{folded}; image {height} × {width}'))
    return stats


def _highest(curve: Curve) -> float:
    return max((value for value in curve.y if math.isfinite(value)), default=math.nan)


def _results(log: Log) -> list[Block]:
    last = metrics(log)
    if not last:
        return [Words(['The log has no evaluation with a metric.'])]
    rows = [(key, [f'{value:.4g}', f'{_highest(log.curve(key)):.4g}']) for key, value in last.items()]
    return [Table('Table of the metrics', ['last evaluation', 'highest'], rows)]


def _network(counts: Cost) -> list[Block]:
    blocks: list[Block] = [Words([f'Replaced: {counts.replaced}.', *filter(None, [counts.note])])]
    found = counts.complexity
    if found:
        rows = [
            ('parameters', [f'{found.parameters:,}', f'{found.folded_parameters:,}']),
            ('MACs of an image', [short(found.image), short(found.folded)]),
            ('MACs of generating the kernels', [short(found.kernels), '0']),
        ]
        blocks.append(Table('Table of the cost', ['trained', 'folded'], rows))
    return blocks


def _kernels(work: Path, cfg: Config, model: nn.Module, checkpoint: str) -> Section:
    try:
        layers = find_operators(model)
    except ConfigError:
        layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1}
    seed = (cfg.get('randomness') or {}).get('seed')
    text = f'Kernels at the start and after training, with {checkpoint}.'
    if not layers:
        raise ConfigError('the network has no layer with kernels')
    start = None
    if seed is None or _first_config(work, cfg).get('load_from'):
        known = f'Kernels after training, with {checkpoint}; those at the start are not known: '
        fixed = 'the run had no fixed seed. To fix one, train with --cfg-options randomness.seed=0'
        text = f'{known}{fixed if seed is None else "it began from a checkpoint"}.'
    else:
        start = starting_model(cfg, seed)
    return Section('kernels', 'Kernels', [KernelPairs(draw_kernels(layers, start))], text)


def _first_start(work: Path) -> tuple[Path, Config] | None:
    """Return the config of the start that did not resume, and its file: a later one names the run's own checkpoint."""
    files = sorted(work.glob('*/vis_data/config.py'))
    starts = [(file, load_config(str(file))) for file in files]
    return next((start for start in reversed(starts) if not start[1].get('resume')), starts[0] if starts else None)


def _first_config(work: Path, cfg: Config) -> Config:
    start = _first_start(work)
    return start[1] if start else cfg


def _begun(work: Path, log: Log) -> str:
    """Return the date of the start that did not resume, as its folder is named; else that of the log."""
    file = log.file
    try:
        if start := _first_start(work):
            file = start[0]
    except LACKING:
        # Its config imports what is not here; the date is no reason for having no page.
        pass
    return next((part for part in reversed(file.parts) if re.fullmatch(r'\d{8}_\d{6}', part)), '')


def _environment(work: Path, log: Log, cfg: Config, config: Path, checkpoint: Path | None) -> list[Block]:
    gpu = [line['memory'] for line in log.train if 'memory' in line]
    facts = [
        ('config', str(config)),
        ('seed', _seed(cfg)),
        *([('largest memory of the GPU', f'{max(gpu)} MiB')] if gpu else []),
        *environment().items(),
    ]
    files = [('config', str(config)), ('log', str(log.file)), ('folder', str(work))]
    if checkpoint:
        files.append(('checkpoint', str(checkpoint)))
    where = 'Versions and machine are those that made this page; those of the training are in its log.'
    return [Facts(facts), Words([where]), Facts(files, 'Files of the run', short=False)]


def _network_name(cfg: Config) -> str:
    model = cfg.model
    inner = model.get('model') or model.get('backbone') if str(model.get('type')).endswith('Converted') else model
    kind = inner.get('type')
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))
    return name.rpartition('.')[2]


def _length(cfg: Config) -> str:
    loop = cfg.get('train_cfg') or {}
    return next((f'{loop[key]} {unit}s' for key, unit in UNITS.items() if loop.get(key)), 'of unknown length')


def _seed(cfg: Config) -> str:
    seed = (cfg.get('randomness') or {}).get('seed')
    return 'not fixed' if seed is None else str(seed)


def _date(stamp: str) -> str:
    return f'{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]} {stamp[9:11]}:{stamp[11:13]}'


def _lacking(part: str, error: Exception) -> str:
    return f'No {part}: {type(error).__name__}: {printable(" ".join(str(error).split()), 300)}'
