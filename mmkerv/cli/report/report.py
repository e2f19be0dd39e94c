"""The report of the demo, from the folder of a finished run: nothing is trained."""

import io
import json
import logging
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from torch import nn

from mmkerv.cli.report.charts import Line, line_chart
from mmkerv.cli.report.page import METRICS, Chart, Kernels, Report, render_report
from mmkerv.cli.report.record import read_record
from mmkerv.cli.report.scenes import detect_scenes
from mmkerv.deploy.trained_model import load_trained
from mmkerv.engine.checkpoint.atomic_write import atomic_path
from mmkerv.errors import ConfigError
from mmkerv.models.layers import find_operators
from mmkerv.ops.coc.module import CoCConv2d
from mmkerv.ops.core.generated import GeneratedKernel, relative_change
from mmkerv.visualization.kernel_figures import kernel_figure, title_of

SCENES, THRESHOLD = 4, 0.4
FILES = (
    ('trained.pth', 'weights of the trained network'),
    ('deploy.pth', 'weights of the folded network'),
    ('deploy.py', 'config of the folded network'),
    ('train/', 'logs and config of the training'),
    ('plain/', 'logs, config and weights of the plain network'),
    ('demo.json', 'all figures of this page'),
)


def write_demo_report(work: str | Path) -> Path:
    """Write ``report.html`` into the folder of a finished demo and return its path.

    Args:
        work: the folder; the data of the run must still be where they were.

    Raises:
        FileNotFoundError: if something of the run is not there.
        ConfigError: if something of it is of another version.

    Example:
        >>> write_demo_report('work_dirs/demo')  # doctest: +SKIP
        PosixPath('work_dirs/demo/report.html')
    """
    work = Path(work)
    record = read_record(work)
    config = existing(work / 'train' / Path(record.config).name)
    curves = {'trained': read_curves(work / 'train')}
    if record.plain:
        curves['plain'] = read_curves(work / 'plain')
    cfg, trained = load_trained(str(config), existing(work / 'trained.pth'))
    _, folded = load_trained(str(existing(work / 'deploy.py')), existing(work / 'deploy.pth'))
    operators = find_operators(trained, kinds=GeneratedKernel)
    scenes = detect_scenes(cfg, {'trained network': trained, 'folded network': folded}, SCENES, THRESHOLD)
    report = Report(
        record=record,
        network=cfg.model.type,
        operator=type(next(iter(operators.values()))).__name__.removesuffix('2d'),
        training=training_in_words(cfg),
        threshold=THRESHOLD,
        scenes=scenes,
        charts=draw_curves(curves),
        kernels=draw_kernels(operators, starting_model(cfg, record.seed)),
        files=[(str(work / name), meaning) for name, meaning in FILES if (work / name).exists()],
    )
    page = work / 'report.html'
    with atomic_path(page) as temporary:
        temporary.write_text(render_report(report), encoding='utf-8')
    return page


def existing(file: Path) -> Path:
    """Return a file of the run.

    Raises:
        FileNotFoundError: if it is not there.

    Example:
        >>> existing(Path('absent.pth'))
        Traceback (most recent call last):
        ...
        FileNotFoundError: absent.pth is not there: this is no folder of a finished demo. Run `make demo` again
    """
    if not file.is_file():
        raise FileNotFoundError(f'{file} is not there: this is no folder of a finished demo. Run `make demo` again')
    return file


def training_in_words(cfg: Config) -> str:
    """Say how long and on how many images a config of COCO's kind trains.

    Example:
        >>> training_in_words(cfg)  # doctest: +SKIP
        'Trained from scratch for 16 epochs on 400 scenes.'
    """
    dataset = cfg.train_dataloader.dataset
    annotations = json.loads((Path(dataset.data_root) / dataset.ann_file).read_text())
    return f'Trained from scratch for {cfg.train_cfg.max_epochs} epochs on {len(annotations["images"])} scenes.'


def read_curves(folder: Path) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """Read what mmengine logged in a work folder, of its latest run.

    Returns:
        ``losses`` by iteration and ``metrics`` by epoch, name by name as (positions, values).

    Raises:
        FileNotFoundError: if there is no log.
        ConfigError: if it has no loss, or is no log.

    Example:
        >>> read_curves(Path('work_dirs/demo/train'))['metrics']  # doctest: +SKIP
        {'coco/bbox_mAP': ([8, 16], [0.31, 0.48])}
    """
    files = sorted(folder.glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(f'{folder}/*/vis_data/scalars.json is not there: no training was logged in {folder}')
    curves: dict[str, dict] = {'losses': {}, 'metrics': {}}
    try:
        for entry in map(json.loads, files[-1].read_text().splitlines()):
            kind = 'losses' if 'loss' in entry else 'metrics'
            for name, value in entry.items():
                if name.startswith('loss') if kind == 'losses' else name in METRICS:
                    steps, values = curves[kind].setdefault(name, ([], []))
                    steps.append(entry['step'])
                    values.append(value)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f'{files[-1]} is no log of mmengine: {error!r}; run `make demo` again') from error
    if not curves['losses']:
        raise ConfigError(f'{files[-1]} has no loss: the training ended before it logged one; run `make demo` again')
    return curves


def draw_curves(curves: dict[str, dict]) -> list[Chart]:
    """Draw loss and mAP of the trained network, and of the plain one where there is one.

    Example:
        >>> run = {'losses': {'loss': ([20, 40], [2.0, 1.0])}, 'metrics': {}}
        >>> draw_curves({'trained': run})[0].text
        'Loss by iteration: from 2.00 to 1.00.'
    """
    own, plain = curves['trained'], curves.get('plain')
    losses = [Line(_label(name), *line, i % 3) for i, (name, line) in enumerate(own['losses'].items())]
    metrics = [Line(_label(name), *line, i) for i, (name, line) in enumerate(own['metrics'].items())]
    tail = ''
    if plain:
        losses = [losses[0], Line('loss, plain', *plain['losses']['loss'], 1, True)]
        names = [name for name in list(METRICS)[:2] if name in own['metrics'] and name in plain['metrics']]
        metrics = [Line(_label(name), *own['metrics'][name], i) for i, name in enumerate(names)]
        metrics += [Line(f'{_label(name)}, plain', *plain['metrics'][name], i, True) for i, name in enumerate(names)]
        tail = f' The plain network: to {plain["losses"]["loss"][1][-1]:.2f}.'
    values = own['losses']['loss'][1]
    text = f'Loss by iteration: from {values[0]:.2f} to {values[-1]:.2f}.{tail}'
    charts = [Chart('Loss', line_chart(losses, 'iteration', 'loss', 'loss'), text)]
    if metrics:
        text = f'On the held-out scenes, by epoch; at the end the {metrics[0].name} is {metrics[0].y[-1]:.3f}.'
        charts.append(Chart('Box mAP', line_chart(metrics, 'epoch', 'mAP', 'map'), text))
    return charts


def _label(name: str) -> str:
    return {'loss_cls': 'classification', 'loss_bbox': 'boxes', **METRICS}.get(name, name)


def starting_model(cfg: Config, seed: int) -> nn.Module:
    """Build the network as mmengine's runner with this seed has it before the first iteration.

    The runner sets the seed, builds the network and, before it trains, initialises it; nothing draws in between.

    Example:
        >>> starting_model(cfg, seed=0).training  # doctest: +SKIP
        True
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    logger = MMLogger.get_current_instance()
    level = logger.level
    # It tells of each parameter how it was initialised.
    logger.setLevel(logging.WARNING)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = MODELS.build(cfg.model)
            model.init_weights()
    finally:
        logger.setLevel(level)
    return model


def draw_kernels(operators: dict[str, nn.Module], start: nn.Module) -> list[Kernels]:
    """Draw the kernels of three layers: the first, the last, and of the others the one furthest from a plain layer.

    Args:
        operators: of the trained network, by name.
        start: the network before training.

    Example:
        >>> draw_kernels(find_operators(trained), starting_model(cfg, 0))[0].layer  # doctest: +SKIP
        'backbone.conv1'
    """
    strength = {name: association(op) for name, op in operators.items()}
    first, *others = operators
    last = others.pop() if others else first
    middle = max(others, key=strength.get) if others else first
    reasons = {
        first: 'The first layer, which sees the image.',
        middle: 'Of the layers between, the one that association changed most.',
        last: 'The last one.',
    }
    drawn = []
    for name, reason in reasons.items():
        before = start.get_submodule(name)
        text = (
            f'{title_of(before)}. {reason} |K − W| / |W| was {association(before):.2f} at the start and is '
            f'{strength[name]:.2f} at the end.'
        )
        drawn.append(Kernels(name, text, _png(before), _png(operators[name])))
    return drawn


@torch.no_grad()
def association(operator: Any) -> float:
    """|K - W| / |W| of an operator with a basic kernel W.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> association(CoCConv2d(4, 4, 3))
        0.0
    """
    return relative_change(operator.kernel(), operator.weight)


def _png(operator: nn.Module) -> bytes:
    figure = kernel_figure(operator)
    # The page says what these texts say, in letters of its own size.
    figure.suptitle('')
    for axes in figure.axes:
        axes.set_title('')
    if isinstance(operator, CoCConv2d):
        # The left half shows the kernels before association, with which the layer does not convolve.
        figure.delaxes(figure.axes[0])
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=180, bbox_inches='tight', pad_inches=0.05)
    # A palette: a third of the bytes, and no difference to be seen.
    with Image.open(buffer) as image:
        small = io.BytesIO()
        image.convert('RGB').quantize(255, dither=Image.Dither.NONE).save(small, 'PNG', optimize=True)
    return small.getvalue()
