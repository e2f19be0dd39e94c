"""Run-time changes to other libraries: one table, applied by the tools and undone by ``with patched():``.

They are for a process that trains or tests; mmkerv imports, reads, checks and builds without them. The tools apply the
table and leave it in place until their process ends; in your own code, :func:`undo_patches` and ``with patched():``
undo it. What ``import mmkerv`` itself changes, for good, is listed in the docstring of :mod:`mmkerv`.
"""

import functools
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

from mmengine.fileio.handlers import PickleHandler

from mmkerv.distributions import BUILT_ON, importable
from mmkerv.engine.checkpoint.atomic_write import AtomicLocalBackend
from mmkerv.engine.checkpoint.pretrained import reported_load
from mmkerv.engine.checkpoint.safe_load import checkpoint_loaders
from mmkerv.engine.config.data_files import SafePickleHandler, SafeYamlHandler
from mmkerv.engine.data_checks import upstream_errors
from mmkerv.ops.core.initialisation import plain_convolutions
from mmkerv.utils import bare_network

TESTED = 'mmengine 0.10.7 to 0.10.12'


class Patch(NamedTuple):
    """One place of another library that is replaced at run time; undoing it puts the old value back.

    Args:
        place: ``module:attribute``, or ``module:dict[key]``.
        replacement: called with the old value and with whether files are trusted; returns the new value.
        why: what goes wrong without it.
        needed: versions of the library in which it is needed.
        scope: ``default_scope`` of the configs that need it; ``None`` for all.

    Example:
        >>> sorted({patch.scope for patch in PATCHES if patch.scope})
        ['mmdet', 'mmseg']
    """

    place: str
    replacement: Callable[[Any, bool], Any]
    why: str
    needed: str = TESTED
    scope: str | None = None


def _wrapped(wrapper: Callable[..., Any]) -> Callable[[Any, bool], Any]:
    """Return a replacement that calls ``wrapper(upstream, self, ...)`` in place of a method."""

    def replacement(upstream: Callable, trust: bool) -> Callable:
        @functools.wraps(upstream)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return wrapper(upstream, self, *args, **kwargs)

        return method

    return replacement


def _initialised(upstream: Callable, runner: Any) -> None:
    """Initialise the weights of a runner's network, whose operators count as ``nn.Conv2d`` meanwhile."""
    with plain_convolutions(bare_network(runner.model)):
        upstream(runner)


def _averaged_once(upstream: Callable, averaged: Any, model: Any) -> None:
    """Update an averaged model that goes through its state dict, in which a shared parameter has several keys."""
    if averaged.update_buffers:
        once = {(t.data_ptr(), t.shape) if t.numel() else key: key for key, t in averaged.avg_parameters.items()}
        averaged.avg_parameters = {key: averaged.avg_parameters[key] for key in once.values()}
    upstream(averaged, model)


def _yaml(upstream: Any, trust: bool) -> Any:
    return SafeYamlHandler()


def _pickle(upstream: Any, trust: bool) -> Any:
    return PickleHandler() if trust else SafePickleHandler()


def _atomic(upstream: Any, trust: bool) -> Any:
    return AtomicLocalBackend


def _loaders(upstream: dict[str, Any], trust: bool) -> dict[str, Any]:
    # The first prefix that matches is taken: as mmengine sorts them, the empty one is the last.
    return dict(sorted({**upstream, **checkpoint_loaders(trust)}.items(), reverse=True))


HANDLERS = 'mmengine.fileio.handlers.registry_utils:file_handlers'
BACKENDS = 'mmengine.fileio.backends.registry_utils'
YAML_RUNS_CODE = 'the YAML loader constructs any Python object that a file names'
PICKLE_RUNS_CODE = 'annotations and proposals in pickles run any code'
HALF_FILES = 'an interrupted write leaves half a checkpoint'
# Operators see to it where mmengine's BaseModule begins; networks may have an init_weights of their own.
BY_CLASS = 'initialisers that look for nn.Conv2d leave out operators, whose weights stay as constructed'
UNNAMED_FILE = 'the error of a broken or missing file does not name the file'
COCO = 'mmdet.datasets.api_wrappers:COCO'
MMDET = 'mmdet 3.3.0 to 3.5.1'

PATCHES = (
    Patch(f'{HANDLERS}[yaml]', _yaml, YAML_RUNS_CODE),
    Patch(f'{HANDLERS}[yml]', _yaml, YAML_RUNS_CODE),
    Patch(f'{HANDLERS}[pkl]', _pickle, PICKLE_RUNS_CODE),
    Patch(f'{HANDLERS}[pickle]', _pickle, PICKLE_RUNS_CODE),
    Patch(
        'mmengine.runner.checkpoint:CheckpointLoader._schemes',
        _loaders,
        'torch.load runs the code in a checkpoint',
    ),
    Patch(
        'mmengine.runner.checkpoint:load_from_http',
        lambda upstream, trust: checkpoint_loaders(trust)['https://'],
        'the loaders of torchvision:// and mmcls:// look up an address and call this function by its name',
    ),
    Patch(
        'mmengine.model:PretrainedInit.__call__',
        lambda upstream, trust: reported_load(upstream),
        'weights that do not fit are left out with no more than a line in the log',
    ),
    Patch('mmengine.runner:Runner._init_model_weights', _wrapped(_initialised), BY_CLASS),
    Patch(
        'mmengine.model.averaged_model:BaseAveragedModel.update_parameters',
        _wrapped(_averaged_once),
        'with update_buffers=True a parameter that layers share is averaged once for each of them in every step',
    ),
    Patch(f'{BACKENDS}:backends[local]', _atomic, HALF_FILES),
    Patch(f'{BACKENDS}:prefix_to_backends[]', _atomic, HALF_FILES),
    # It caches instances of the backends above.
    Patch('mmengine.fileio.io:backend_instances', lambda upstream, trust: {}, HALF_FILES),
    Patch('mmengine.dataset:BaseDataset.prepare_data', _wrapped(upstream_errors.named_sample), UNNAMED_FILE),
    Patch('mmengine.dataset:BaseDataset.load_data_list', _wrapped(upstream_errors.named_annotations), UNNAMED_FILE),
    Patch(
        'mmengine.dataset:BaseDataset._serialize_data',
        _wrapped(upstream_errors.some_samples),
        'the error of a data set without a sample is one of numpy on arrays to concatenate',
    ),
    Patch(
        'mmseg.datasets.transforms:LoadAnnotations._load_seg_map',
        _wrapped(upstream_errors.checked_mask),
        'a mask in colour, or of another size than its image, ends in an error of the loss',
        'mmseg 1.2.2 to 1.4.2',
        'mmseg',
    ),
    Patch(
        f'{COCO}.__init__',
        _wrapped(upstream_errors.readable_json),
        f'{UNNAMED_FILE}; of every file that is read, again and again, four lines are printed',
        MMDET,
        'mmdet',
    ),
    Patch(
        f'{COCO}.createIndex',
        _wrapped(upstream_errors.checked_index),
        'boxes of NaN train to NaN, and invalid annotations are left out silently',
        MMDET,
        'mmdet',
    ),
    Patch(
        f'{COCO}.get_cat_ids',
        _wrapped(upstream_errors.checked_classes),
        'classes that the file does not list are left out silently, and the others get their numbers',
        MMDET,
        'mmdet',
    ),
)

# The readers of YAML and pickle files.
DATA_FILES = tuple(patch.place for patch in PATCHES if patch.place.startswith(HANDLERS))

# The old values of the places that are replaced now, and whether a class had inherited it.
_replaced: dict[str, tuple[Any, bool]] = {}


def apply_patches(scope: str | None = None, trust: bool = False, only: Collection[str] | None = None) -> None:
    """Apply the table to this process, and to workers forked from it, until :func:`undo_patches`.

    Applying it again replaces what is there by what the arguments ask for; nothing is wrapped twice.

    Args:
        scope: ``default_scope`` of the config; the rows of its library, and of the one that it builds on, are applied
            too.
        trust: read checkpoints and pickles without restriction: they may run any code.
        only: places to change; all by default.

    Example:
        >>> apply_patches('mmdet')
        >>> undo_patches()
    """
    libraries = (scope, BUILT_ON.get(scope))
    for patch in PATCHES:
        wanted = patch.scope is None or (patch.scope in libraries and importable(patch.scope))
        if wanted and (only is None or patch.place in only):
            owner, key = _locate(patch.place)
            if patch.place not in _replaced:
                _replaced[patch.place] = _get(owner, key)
            _put(owner, key, patch.replacement(_replaced[patch.place][0], trust))


def undo_patches() -> None:
    """Put the old value back in every place that is replaced.

    Example:
        >>> apply_patches()
        >>> undo_patches()
    """
    while _replaced:
        place, (value, inherited) = _replaced.popitem()
        owner, key = _locate(place)
        if inherited:
            delattr(owner, key)
        else:
            _put(owner, key, value)


@contextmanager
def patched(scope: str | None = None, trust: bool = False, only: Collection[str] | None = None) -> Iterator[None]:
    """Apply the table inside a ``with`` block; afterwards every place is as it was before the block.

    Blocks may be nested, and what :func:`apply_patches` does inside is undone too.

    Args:
        scope: as for :func:`apply_patches`.
        trust: likewise.
        only: likewise.

    Example:
        >>> from mmengine.model import PretrainedInit
        >>> upstream = PretrainedInit.__call__
        >>> with patched():
        ...     PretrainedInit.__call__ is upstream
        False
        >>> PretrainedInit.__call__ is upstream
        True
    """
    replaced = dict(_replaced)
    values = {place: _get(*_locate(place))[0] for place in replaced}
    try:
        apply_patches(scope, trust, only)
        yield
    finally:
        undo_patches()
        for place, value in values.items():
            _put(*_locate(place), value)
        _replaced.update(replaced)


def _locate(place: str) -> tuple[Any, str]:
    """Return the object or dict that holds a place, and the place's name in it."""
    module, path = place.split(':')
    *outer, key = re.split(r'[.\[]', path.removesuffix(']'))
    owner = import_module(module)
    for name in outer:
        owner = getattr(owner, name)
    return owner, key


def _get(owner: Any, key: str) -> tuple[Any, bool]:
    """Return the value, and whether a class inherits it."""
    if isinstance(owner, dict):
        return owner[key], False
    return getattr(owner, key), key not in vars(owner)


def _put(owner: Any, key: str, value: Any) -> None:
    if isinstance(owner, dict):
        owner[key] = value
    else:
        setattr(owner, key, value)
