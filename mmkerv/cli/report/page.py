"""The report of a run as one page of HTML that needs no network, no script and no other file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mmkerv.cli.report.record import DemoRecord
from mmkerv.cli.report.scenes import Panel, Scene

METRICS = {'coco/bbox_mAP': 'mAP', 'coco/bbox_mAP_50': 'mAP_50', 'coco/bbox_mAP_75': 'mAP_75'}


class Chart(NamedTuple):
    """A chart of the page.

    Args:
        title: above it.
        svg: as :func:`mmkerv.cli.report.charts.line_chart` draws it.
        text: what it shows, in words.

    Example:
        >>> Chart('Loss', '<svg></svg>', 'falls from 2 to 1').title
        'Loss'
    """

    title: str
    svg: str
    text: str


class Kernels(NamedTuple):
    """Kernels of one layer before and after training.

    Args:
        layer: name of the layer.
        text: about it.
        before: PNG.
        after: PNG.

    Example:
        >>> Kernels('conv1', '', b'', b'').layer
        'conv1'
    """

    layer: str
    text: str
    before: bytes
    after: bytes


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Args:
        record: figures of the run.
        network: name of the kind of network, such as ``'RetinaNet'``.
        operator: name of the operator in it.
        training: how it was trained, in a phrase.
        threshold: lowest score of the detections.
        scenes: pictures with boxes.
        charts: curves of the training.
        kernels: of some layers.
        files: what the run left, name and meaning.

    Example:
        >>> list(Report.__dataclass_fields__)[:2]
        ['record', 'network']
    """

    record: DemoRecord
    network: str
    operator: str
    training: str
    threshold: float
    scenes: Sequence[Scene]
    charts: Sequence[Chart]
    kernels: Sequence[Kernels]
    files: Sequence[tuple[str, str]]


def render_report(report: Report) -> str:
    """Return the page.

    Every text of the report is escaped; only the charts' SVG is taken as it is.

    Example:
        >>> render_report(report)[:15]  # doctest: +SKIP
        '<!doctype html>'
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {'uri': data_uri, 'minutes': minutes, 'svg': Markup}
    template = environment.get_template('report.html.jinja')
    return template.render(r=report, d=report.record, metrics=METRICS, tags=tags)


def data_uri(content: bytes) -> str:
    r"""A PNG or JPEG as ``data:`` address.

    Example:
        >>> data_uri(b'\x89PNG')
        'data:image/png;base64,iVBORw=='
    """
    kind = 'png' if content[:4] == b'\x89PNG' else 'jpeg'
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def minutes(seconds: float) -> str:
    """A time in words.

    Example:
        >>> minutes(42), minutes(462)
        ('42 s', '7 min 42 s')
    """
    whole = round(seconds)
    return f'{whole // 60} min {whole % 60} s' if whole >= 60 else f'{whole} s'


class Tag(NamedTuple):
    """The label of a box and where it stands, in pixels of the image.

    Args:
        text: the label.
        left: of its background.
        top: of its background.
        width: of its background.
        height: of its background.
        size: of the letters.

    Example:
        >>> Tag('circle', 0, 0, 30, 10, 8).size
        8
    """

    text: str
    left: float
    top: float
    width: float
    height: float
    size: float


def tags(scene: Scene, panel: Panel) -> list[Tag]:
    """Place the labels of a panel's boxes, at a corner of the box where they hide no other label if there is one.

    Example:
        >>> from mmkerv.cli.report.scenes import Box
        >>> panel = Panel('given', [Box(0, 0, 40, 40, 'circle', 0)])
        >>> tags(Scene('a.jpg', b'', 160, 160, [panel]), panel)[0].top
        0
    """
    size = scene.width / 24
    height = 1.35 * size
    placed: list[Tag] = []
    for box in panel.boxes:
        text = box.label if box.score is None else f'{box.label} {box.score:.2f}'
        width = (0.56 * len(text) + 0.6) * size
        bottom = box.top + box.height
        # Above, inside at the top, below, inside at the bottom; at the left of the box, then at its right.
        spots = [
            Tag(text, min(max(left, 0), max(scene.width - width, 0)), top, width, height, size)
            for left in (box.left, box.left + box.width - width)
            for top in (box.top - height, box.top, bottom, bottom - height)
            if 0 <= top <= scene.height - height
        ]
        fallback = Tag(text, 0, 0, width, height, size)
        placed.append(min(spots, key=lambda spot: sum(_overlap(spot, tag) for tag in placed), default=fallback))
    return placed


def _overlap(a: Tag, b: Tag) -> float:
    across = min(a.left + a.width, b.left + b.width) - max(a.left, b.left)
    down = min(a.top + a.height, b.top + b.height) - max(a.top, b.top)
    return max(across, 0) * max(down, 0)
