"""The report of the demo, from the folder of a finished run."""

import json
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from mmkerv.analysis.logs import Curve, read_log
from mmkerv.cli.report.charts import Line, line_chart
from mmkerv.cli.report.demo_page import BOX_METRICS, Report, render_report
from mmkerv.cli.report.demo_record import RECORD_FILE, SHAPE, read_record
from mmkerv.cli.report.kernels import draw_kernels, starting_model
from mmkerv.cli.report.page import Chart
from mmkerv.cli.report.scenes import detect_scenes
from mmkerv.deploy.trained_model import load_trained
from mmkerv.engine.checkpoint.atomic_write import atomic_path
from mmkerv.errors import ConfigError
from mmkerv.models.layers import find_operators
from mmkerv.operator_table import operator_name
from mmkerv.ops.core.generated import GeneratedKernel

# Number of images with boxes, and lowest score of the boxes.
SCENES, THRESHOLD = 4, 0.4
FILES = (
    ('trained.pth', 'weights of the trained network'),
    ('deploy.pth', 'weights of the folded network'),
    ('deploy.py', 'config of the folded network'),
    ('train/', 'logs and config of the training'),
    ('plain/', 'logs, config and weights of the plain network'),
    (RECORD_FILE, 'all figures of this page'),
)


def write_demo_report(work: str | Path) -> Path:
    """Write ``report.html`` into the folder of a finished demo and return its path.

    Args:
        work: the folder; the data of the run must still exist.

    Raises:
        FileNotFoundError: if a file of the run is missing.
        ConfigError: if another version wrote one of them.

    Example:
        >>> write_demo_report('work_dirs/demo')  # doctest: +SKIP
        PosixPath('work_dirs/demo/report.html')
    """
    work = Path(work)
    record = read_record(work)
    config = existing(work / 'train' / Path(record.config).name)
    curves = read_curves(work / 'train')
    plain_curves = read_curves(work / 'plain') if record.plain else None
    cfg, trained = load_trained(str(config), existing(work / 'trained.pth'))
    _, folded = load_trained(str(existing(work / 'deploy.py')), existing(work / 'deploy.pth'))
    operators = find_operators(trained, kinds=GeneratedKernel)
    scenes = detect_scenes(cfg, {'trained network': trained, 'folded network': folded}, SCENES, THRESHOLD)
    report = Report(
        record=record,
        network=cfg.model.type,
        operator=operator_name(type(next(iter(operators.values())))),
        training=training_in_words(cfg),
        shape=SHAPE,
        threshold=THRESHOLD,
        scenes=scenes,
        charts=training_charts(curves, plain_curves),
        kernels=draw_kernels(operators, starting_model(cfg, record.seed)),
        files=[(str(work / name), meaning) for name, meaning in FILES if (work / name).exists()],
    )
    page = work / 'report.html'
    with atomic_path(page) as temporary:
        temporary.write_text(render_report(report), encoding='utf-8')
    return page


def existing(file: Path) -> Path:
    """Return a file of the run, checked to exist.

    Raises:
        FileNotFoundError: if it does not exist.

    Example:
        >>> existing(Path('absent.pth'))
        Traceback (most recent call last):
        ...
        FileNotFoundError: absent.pth does not exist: this is no folder of a finished demo. Run `make demo` again
    """
    if not file.is_file():
        raise FileNotFoundError(f'{file} does not exist: this is no folder of a finished demo. Run `make demo` again')
    return file


def training_in_words(cfg: Config) -> str:
    """Return a sentence on the length of the training and the number of images, for a config with COCO data.

    Example:
        >>> training_in_words(cfg)  # doctest: +SKIP
        'Trained from scratch for 16 epochs on 400 scenes.'
    """
    dataset = cfg.train_dataloader.dataset
    annotations = json.loads((Path(dataset.data_root) / dataset.ann_file).read_text())
    return f'Trained from scratch for {cfg.train_cfg.max_epochs} epochs on {len(annotations["images"])} scenes.'


class Curves(NamedTuple):
    """Logged values of a run.

    Args:
        losses: losses by name.
        metrics: box metrics by name.

    Example:
        >>> Curves({'loss': Curve('iteration', [20], [2.0])}, {}).losses['loss'].y
        [2.0]
    """

    losses: dict[str, Curve]
    metrics: dict[str, Curve]


def read_curves(folder: Path) -> Curves:
    """Read the losses and box metrics of the latest run in a work folder.

    Raises:
        FileNotFoundError: if there is no log.
        ConfigError: if it cannot be read, or holds no loss.

    Example:
        >>> read_curves(Path('work_dirs/demo/train')).metrics['coco/bbox_mAP'].x  # doctest: +SKIP
        [2, 4, 6, 8, 10, 12, 14, 16]
    """
    log = read_log(folder)
    if 'loss' not in log.keys:
        raise ConfigError(f'{log.file} has no loss: the training ended before it logged one; run `make demo` again')
    losses = {name: log.curve(name) for name in log.keys if name.startswith('loss')}
    return Curves(losses, {name: log.curve(name) for name in log.keys if name in BOX_METRICS})


def training_charts(trained: Curves, plain: Curves | None = None) -> list[Chart]:
    """Draw loss and mAP of the trained network and, dashed, of the plain one.

    Args:
        trained: curves of the network with operators.
        plain: curves of the plain network.

    Example:
        >>> training_charts(Curves({'loss': Curve('iteration', [20, 40], [2.0, 1.0])}, {}))[0].text
        'Loss by iteration: from 2 to 1.'
    """
    loss = trained.losses['loss']
    text = f'Loss by {loss.unit}: from {loss.y[0]:.3g} to {loss.y[-1]:.3g}.'
    if plain:
        text += f' The plain network: to {plain.losses["loss"].y[-1]:.3g}.'
        lines = [_line('loss', loss, 0), _line('loss', plain.losses['loss'], 1, plain=True)]
    else:
        lines = [_line(name, curve, number % 3) for number, (name, curve) in enumerate(trained.losses.items())]
    charts = [Chart('Loss', line_chart(lines, loss.unit, 'loss', 'loss'), text)]
    names = list(trained.metrics)
    if plain:
        # Two metrics of two networks are as many lines as can be told apart.
        names = [name for name in list(BOX_METRICS)[:2] if name in trained.metrics and name in plain.metrics]
    if names:
        unit = trained.metrics[names[0]].unit
        lines = [_line(name, trained.metrics[name], number) for number, name in enumerate(names)]
        text = f'On the held-out scenes, by {unit}; at the end the {lines[0].name} is {lines[0].y[-1]:.3f}.'
        if plain:
            lines += [_line(name, plain.metrics[name], number, plain=True) for number, name in enumerate(names)]
        charts.append(Chart('Box mAP', line_chart(lines, unit, 'mAP', 'map'), text))
    return charts


def _line(name: str, curve: Curve, color: int, plain: bool = False) -> Line:
    label = {'loss_cls': 'classification', 'loss_bbox': 'boxes', **BOX_METRICS}.get(name, name)
    return Line(f'{label}, plain' if plain else label, curve.x, curve.y, color, dashed=plain)
