"""An invented run of the demo, for tests of its report."""

import io
from functools import cache

import torch
from PIL import Image
from torch import nn

from mmkerv.analysis.logs import Curve
from mmkerv.cli.report.demo_page import Report
from mmkerv.cli.report.demo_record import DemoRecord
from mmkerv.cli.report.demo_report import Curves, training_charts
from mmkerv.cli.report.kernels import draw_kernels
from mmkerv.cli.report.page import Kernels
from mmkerv.cli.report.scenes import Box, Panel, Scene
from mmkerv.models.layers import find_operators
from mmkerv.ops import CoCConv2d

METRICS = {'coco/bbox_mAP': 0.4751, 'coco/bbox_mAP_50': 0.7362, 'coco/bbox_mAP_75': 0.5323}
PLAIN = {
    'config': 'configs/plain.py',
    'metrics': {name: value - 0.1 for name, value in METRICS.items()},
    'parameters': 13136000,
    'milliseconds': 44.4,
    'seconds': 301.0,
}
ENVIRONMENT = {'processor': 'A processor', 'threads': '2', 'GPU': 'none used', 'PyTorch': '2.11.0', 'mmkerv': '0.1.0'}


def record(**changes: object) -> DemoRecord:
    """A record with changes."""
    values = {
        'config': 'configs/demo/made_up.py',
        'options': {},
        'data': 'data/shapes',
        'seed': 7,
        'date': '2026-01-02T03:04:05+00:00',
        'seconds': 462.0,
        'environment': ENVIRONMENT,
        'before': METRICS,
        'after': METRICS,
        'difference': 2.1e-07,
        'parameters': (13149279, 13136383),
        'milliseconds': (129.8, 45.3),
        'associations': (0.45, 0.82),
    }
    return DemoRecord(**{**values, **changes})


def curves(offset: float = 0.0) -> Curves:
    """The curves of a training."""
    steps = list(range(20, 801, 20))
    loss = Curve('iteration', steps, [30 / (step + 10) + offset for step in steps])
    epochs = list(range(2, 17, 2))
    metrics = {
        name: Curve('epoch', epochs, [value * epoch / 16 - offset for epoch in epochs])
        for name, value in METRICS.items()
    }
    return Curves(dict.fromkeys(('loss', 'loss_cls', 'loss_bbox'), loss), metrics)


def scene(label: str = 'circle', name: str = '1.jpg') -> Scene:
    """A grey image with two boxes of two classes."""
    buffer = io.BytesIO()
    Image.new('RGB', (160, 160), 'gray').save(buffer, 'JPEG')
    annotated = [Box(10, 20, 60, 50, label, 0), Box(90, 0, 40, 40, 'rectangle', 1)]
    detected = [box._replace(score=0.9) for box in annotated]
    panels = [Panel('ground truth', annotated), Panel('trained network', detected), Panel('folded network', detected)]
    return Scene(name, buffer.getvalue(), 160, 160, panels)


def network(seed: int) -> nn.Module:
    """Three operators with the sizes of a real network."""
    torch.manual_seed(seed)
    options = {'super_init': 'kaiming'}
    return nn.Sequential(CoCConv2d(3, 64, 7, **options), *(CoCConv2d(128, 128, 3, **options) for _ in range(2)))


@cache
def kernels() -> list[Kernels]:
    """Pictures of realistic size."""
    return draw_kernels(find_operators(network(1)), network(0))


def report(plain: bool = False, **changes: object) -> Report:
    """A report with changes of the record."""
    return Report(
        record=record(plain=PLAIN if plain else None, **changes),
        network='RetinaNet',
        operator='CoCConv',
        training='Trained from scratch for 16 epochs on 400 scenes.',
        shape=(160, 160),
        threshold=0.4,
        scenes=[scene(), scene('triangle', '2.jpg')],
        charts=training_charts(curves(), curves(0.1) if plain else None),
        kernels=kernels(),
        files=[('work_dirs/demo/trained.pth', 'weights of the trained network')],
    )
