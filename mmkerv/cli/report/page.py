"""A run or a comparison as one HTML page without network access, scripts or other files."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from mmkerv.cli.report.scenes import Panel, Scene


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
        before: picture as PNG; none if the start is not known.
        after: picture as PNG.

    Example:
        >>> Kernels('conv1', '', b'', b'').layer
        'conv1'
    """

    layer: str
    text: str
    before: bytes
    after: bytes


class Scenes(NamedTuple):
    """Images with what networks see in them.

    Args:
        scenes: the images.

    Example:
        >>> Scenes([]).kind
        'scenes'
    """

    scenes: Sequence[Scene]
    kind = 'scenes'


class Table(NamedTuple):
    """A table with a heading for each row.

    Args:
        label: the table in words.
        head: headings of the columns.
        rows: heading and cells of each row.
        todo: text in place of the last column.

    Example:
        >>> Table('Results', ['mAP'], [('plain', ['0.5'])]).todo
        ''
    """

    label: str
    head: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    todo: str = ''
    kind = 'table'


class Charts(NamedTuple):
    """Charts side by side.

    Args:
        charts: the charts.

    Example:
        >>> Charts([]).kind
        'charts'
    """

    charts: Sequence[Chart]
    kind = 'charts'


class KernelPairs(NamedTuple):
    """Kernels of layers before and after training.

    Args:
        layers: the layers.

    Example:
        >>> KernelPairs([]).kind
        'kernels'
    """

    layers: Sequence[Kernels]
    kind = 'kernels'


class Facts(NamedTuple):
    """Labels with values.

    Args:
        facts: label and value.
        title: title above them.
        short: whether the values are short texts, else they are code.

    Example:
        >>> Facts([('seed', '0')]).short
        True
    """

    facts: Sequence[tuple[str, str]]
    title: str = ''
    short: bool = True
    kind = 'facts'


class Words(NamedTuple):
    """Paragraphs.

    Args:
        lines: one text for each.

    Example:
        >>> Words(['Times are medians.']).kind
        'words'
    """

    lines: Sequence[str]
    kind = 'words'


class OwnData(NamedTuple):
    """The steps from the demo to a detector of one's own.

    Example:
        >>> OwnData().kind
        'own data'
    """

    kind = 'own data'


Block = Scenes | Table | Charts | KernelPairs | Facts | Words | OwnData


class Section(NamedTuple):
    """A section of the page.

    Args:
        name: its address on the page.
        title: its title.
        blocks: its content.
        text: text above that.
        short: its name in the navigation; the title if empty.

    Example:
        >>> Section('training', 'Training', []).text
        ''
    """

    name: str
    title: str
    blocks: Sequence[Block]
    text: str = ''
    short: str = ''

    @property
    def link(self) -> str:
        """Name in the navigation."""
        return self.short or self.title


class Stat(NamedTuple):
    """A figure at the head of the page.

    Args:
        label: what it is.
        figure: the figure.
        note: text below it.

    Example:
        >>> Stat('mAP', '0.475').note
        ''
    """

    label: str
    figure: str
    note: str = ''


class Page(NamedTuple):
    """Content of a page.

    Args:
        title: title of the window.
        heading: title on the page.
        lead: text below it.
        about: date, machine and the like.
        stats: figures at its head.
        sections: its sections.
        footer: text at its end.

    Example:
        >>> Page('Run', 'A run', '', '', [], [], '').heading
        'A run'
    """

    title: str
    heading: str
    lead: str
    about: str
    stats: Sequence[Stat]
    sections: Sequence[Section]
    footer: str


def render_page(page: Page) -> str:
    """Return a page as HTML.

    Every text is escaped, unless it is ``Markup`` of this package; only the SVG of the charts is inserted unchanged.

    Example:
        >>> render_page(Page('Run', 'A <b>', '', '', [], [], ''))[:15]
        '<!doctype html>'
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {'uri': data_uri, 'svg': Markup, 'breakable': breakable}
    return environment.get_template('page.html.jinja').render(page=page, tags=tags)


def breakable(text: str) -> Markup:
    """Return a text that may be broken behind each slash.

    Example:
        >>> breakable('configs/<a>.py')
        Markup('configs/<wbr>&lt;a&gt;.py')
    """
    return Markup('/<wbr>').join(escape(part) for part in str(text).split('/'))


def data_uri(content: bytes) -> str:
    r"""Return a PNG or JPEG as a ``data:`` address.

    Example:
        >>> data_uri(b'\x89PNG')
        'data:image/png;base64,iVBORw=='
    """
    kind = 'png' if content[:4] == b'\x89PNG' else 'jpeg'
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


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
