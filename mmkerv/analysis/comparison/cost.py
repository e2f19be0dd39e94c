"""Cost of a variant before it is trained: what was replaced, parameters, multiply-adds."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.logging import MMLogger
from torch import nn

from mmkerv.analysis.complexity import Complexity, complexity
from mmkerv.analysis.speed import image_shapes
from mmkerv.deploy.compared_outputs import REFUSALS
from mmkerv.deploy.fold import likely_shapes
from mmkerv.deploy.trained_model import built
from mmkerv.errors import UserError
from mmkerv.models.inventory import inventory
from mmkerv.utils import printable

# Begins the note of a cost that was not counted on a test image.
ASSUMED = 'size assumed'
# Errors by which a network that takes no single image ends its counting, and one that cannot be built its building.
UNCOUNTED = (UserError, OSError, ImportError, *REFUSALS)


class Cost(NamedTuple):
    """Cost of a network.

    Args:
        replaced: what was replaced and what was kept, in words.
        shape: height and width of the image that was counted.
        complexity: multiply-adds and parameters; ``None`` if they could not be counted.
        note: why that size was taken, or why nothing was counted.

    Example:
        >>> Cost('nothing', (32, 32), None, 'no images').parameters is None
        True
    """

    replaced: str
    shape: tuple[int, int]
    complexity: Complexity | None
    note: str = ''

    @property
    def parameters(self) -> int | None:
        """Number of parameters before folding."""
        return self.complexity and self.complexity.parameters

    def as_dict(self) -> dict[str, Any]:
        """Return the cost for a JSON file.

        Example:
            >>> Cost('nothing', (32, 32), None).as_dict()['shape']
            [32, 32]
        """
        counts = self.complexity and self.complexity._asdict()
        return {'replaced': self.replaced, 'shape': list(self.shape), 'complexity': counts, 'note': self.note}


def cost(cfg: Config) -> Cost:
    """Build the network of a config and count it on the size of the first test image.

    Args:
        cfg: config; it stays as it is.

    Raises:
        UserError: if the network cannot be built, such as where nothing is replaced.

    Example:
        >>> cost(load_config('configs/demo/resnet18_coc_shapes.py')).parameters  # doctest: +SKIP
        2801835
    """
    cfg = copy.deepcopy(cfg)
    if cfg.get('data_preprocessor'):
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with unlogged():
        model = built(cfg).eval()
    note = ''
    try:
        shape = image_shapes(cfg, model, 1)[0]
    except UNCOUNTED as error:
        shape, note = likely_shapes(cfg, model)[0], f'{ASSUMED}, there is no test image: {reason(error)}'
    try:
        counts = complexity(model, shape)
    except UNCOUNTED as error:
        counts, note = None, f'not counted: {reason(error)}'
    return Cost(replaced(model), shape, counts, note)


def reason(error: Exception) -> str:
    """Return why something cannot be computed, in words; of errors that are not ours with their kind.

    Example:
        >>> reason(TypeError("missing 'samples'"))
        "TypeError: missing 'samples'"
    """
    kind = '' if isinstance(error, UserError) else f'{type(error).__name__}: '
    return printable(f'{kind}{" ".join(str(error).split())}', 500)


@contextmanager
def unlogged() -> Iterator[None]:
    """Build or load networks without a word in the log.

    Example:
        >>> with unlogged():
        ...     MMLogger.get_current_instance().info('nobody reads this')
    """
    logger = MMLogger.get_current_instance()
    handlers, logger.handlers = logger.handlers, []
    try:
        yield
    finally:
        logger.handlers = handlers


def replaced(model: nn.Module) -> str:
    """Return which convolutions of a network are operators, which are not and why, and how the operators start.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> replaced(nn.Sequential(CoCConv2d(3, 8, 3)))
        '1 of 1 convolutions -> CoCConv (3x3: 1); kept none; CoCConv starts as the plain convolution'
    """
    found = inventory(model)
    return '; '.join([str(found), *(f'{kind} starts {way}' for kind, way in found.starts().items())])
