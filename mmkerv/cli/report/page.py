"""The report of a run as one HTML page without network access, scripts or other files."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mmkerv.cli.report.demo_record import DemoRecord
from mmkerv.cli.report.scenes import Panel, Scene

BOX_METRICS = {'coco/bbox_mAP': 'mAP', 'coco/bbox_mAP_50': 'mAP_50', 'coco/bbox_mAP_75': 'mAP_75'}


class Chart(NamedTuple):
    """A chart of the page.

    Args:
        title: title above the chart.
        svg: the chart, from :func:`mmkerv.cli.report.charts.line_chart`.
        text: the chart in words.

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
        text: text about the layer.
        before: picture as PNG.
        after: picture as PNG.

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
    """Return the page as HTML.

    Every text of the report is escaped; only the SVG of the charts is inserted unchanged.

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
    return template.render(report=report, record=report.record, metrics=BOX_METRICS, tags=tags)


def data_uri(content: bytes) -> str:
    r"""Return a PNG or JPEG as a ``data:`` address.

    Example:
        >>> data_uri(b'\x89PNG')
        'data:image/png;base64,iVBORw=='
    """
    kind = 'png' if content[:4] == b'\x89PNG' else 'jpeg'
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def minutes(seconds: float) -> str:
    """Return a time in words.

    Example:
        >>> minutes(42), minutes(462)
        ('42 s', '7 min 42 s')
    """
    whole = round(seconds)
    return f'{whole // 60} min {whole % 60} s' if whole >= 60 else f'{whole} s'


# Of the labels of boxes: height of the background, mean width of a letter and space around the text, in letter sizes.
_TAG_HEIGHT, _LETTER_WIDTH, _TAG_PADDING = 1.35, 0.56, 0.6
# Widths of the image in letter sizes.
_LETTERS_PER_IMAGE = 24


class Tag(NamedTuple):
    """Label of a box and its background rectangle, in pixels of the image.

    Args:
        text: the label.
        left: left edge of the background.
        top: top edge of the background.
        width: width of the background.
        height: height of the background.
        size: size of the letters.

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

    @property
    def text_left(self) -> float:
        """Left edge of the text."""
        return self.left + _TAG_PADDING * self.size / 2

    @property
    def text_width(self) -> float:
        """Width of the text."""
        return self.width - _TAG_PADDING * self.size


def tags(scene: Scene, panel: Panel) -> list[Tag]:
    """Place the labels of a panel's boxes, each at the corner of its box where it covers least of the other labels.

    Example:
        >>> from mmkerv.cli.report.scenes import Box
        >>> panel = Panel('ground truth', [Box(0, 0, 40, 40, 'circle', 0)])
        >>> tags(Scene('a.jpg', b'', 160, 160, [panel]), panel)[0].top
        0
    """
    size = scene.width / _LETTERS_PER_IMAGE
    height = _TAG_HEIGHT * size
    placed: list[Tag] = []
    for box in panel.boxes:
        text = box.label if box.score is None else f'{box.label} {box.score:.2f}'
        width = (_LETTER_WIDTH * len(text) + _TAG_PADDING) * size
        bottom = box.top + box.height
        # Above, inside at the top, below, inside at the bottom; at the left of the box, then at the right.
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
