"""Census of the convolutions in the models of the three libraries, for ``list_networks.py --census``.

Of each library, it builds one config of every class of backbone, neck, head and model that the configs in its package
have: as it is, and with an operator in every ``conv_cfg`` that a class of the config takes. The plain one then gets the
operator by placement. It counts by class, the innermost registered one that holds a convolution.
"""

import copy
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, Registry, init_default_scope
from torch import nn
from torch.overrides import TorchFunctionMode

from mmkerv.distributions import TESTED, distribution, version
from mmkerv.engine.checkpoint.atomic_write import atomic_path
from mmkerv.errors import ArgumentError
from mmkerv.models.kept_layers import kept_by
from mmkerv.models.placement import convert
from mmkerv.models.replacement import is_plain, peculiarity
from mmkerv.models.upstream_backbones import LIBRARIES
from mmkerv.ops.core.base import ConvNd
from mmkerv.utils import printable

OPERATOR = {'type': 'mmkerv.CoCConv'}
# Parts of the libraries' models that are no networks.
NO_NETWORKS = ('losses', 'data_preprocessors', 'task_modules', 'test_time_augs')
# Sides of the square images that the networks compute, the first that a network takes.
SIDES = (224, 256, 384, 512)


class Share(NamedTuple):
    """Convolutions of one class that are larger than 1x1, by how an operator reaches them.

    Args:
        config: the first config that has the class.
        total: number of convolutions.
        by_conv_cfg: those that ``conv_cfg`` reaches.
        by_placement: those that placement reaches.
        kept: number of the others by reason.
    """

    config: str
    total: int
    by_conv_cfg: int
    by_placement: int
    kept: dict[str, int]


class Uninitialised(TorchFunctionMode):
    """Leaves weights as they are allocated: a census needs no random numbers, which take most of the time."""

    FILLS = frozenset(
        {torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.erfinv_}
        | {fill for name, fill in vars(nn.init).items() if name.endswith('_') and callable(fill) and name[0] != '_'}
    )

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Skip what only fills a tensor."""
        if func in self.FILLS:
            return args[0] if args else kwargs['tensor']
        return func(*args, **(kwargs or {}))


def folder_of_configs(library: str) -> Path:
    """Return the folder of the configs that are installed with a library."""
    return Path(import_module(library).__file__).parent / '.mim' / 'configs'


def registry_of(library: str) -> Registry:
    """Return the library's registry of models, with all of them registered."""
    import_module(f'{library}.models')
    return import_module(f'{library}.registry').MODELS


def network_classes() -> set[type]:
    """Return the registered classes of the libraries' networks."""
    classes = {kind for library in LIBRARIES for kind in registry_of(library).module_dict.values()}
    return {kind for kind in classes if isinstance(kind, type) and is_network(kind)}


def is_network(kind: type) -> bool:
    """Return whether a class is a backbone, neck, head or model of a library."""
    parts = kind.__module__.split('.')
    return issubclass(kind, nn.Module) and parts[0] in LIBRARIES and not set(parts) & set(NO_NETWORKS)


def types(node: Any) -> Iterator[dict]:
    """Yield the dicts of a config that have a type."""
    if isinstance(node, dict):
        if isinstance(node.get('type'), str):
            yield node
        node = node.values()
    elif not isinstance(node, (list, tuple)):
        return
    for child in node:
        yield from types(child)


def tell(line: str, error: Exception) -> None:
    """Print a note beside the table, with the error that it is about."""
    print(printable(f'{line}: {type(error).__name__}: {" ".join(str(error).split())}', 500), file=sys.stderr)


def selected_configs(library: str) -> list[str]:
    """Return the configs of a library of which each has a class that those before it do not have."""
    registry, folder = registry_of(library), folder_of_configs(library)
    known: set[str] = set()
    found = []
    names = [str(file.relative_to(folder)) for file in folder.glob('*/**/*.py')]
    # The networks that train come before those that are merged already.
    for name in sorted(names, key=lambda name: ('deploy' in name, name)):
        if name.startswith('_base_'):
            continue
        try:
            model = Config.fromfile(folder / name).get('model')
        # A config is a program, which may fail in any way, such as for lack of a package of its own.
        except Exception as error:
            tell(f'{library}: {name} was not read', error)
            continue
        kinds = {node['type'] for node in types(model)} - known
        new = {kind for kind in kinds if isinstance(built := registry.get(kind), type) and is_network(built)}
        known |= kinds
        if new:
            found.append(name)
    return found


def takes_conv_cfg(kind: Any) -> bool:
    """Return whether a class takes ``conv_cfg``, itself or by passing arguments on to a base."""
    import inspect

    for owner in getattr(kind, '__mro__', ()):
        if '__init__' not in vars(owner):
            continue
        parameters = inspect.signature(owner.__init__).parameters
        if 'conv_cfg' in parameters:
            return True
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return False
    return False


def build(model: dict, device: str = 'meta') -> nn.Module:
    """Build a model without weights."""
    with Uninitialised():
        return MODELS.build(Config(dict(model=model)).model).eval().to(device)


def without_downloads(node: Any) -> Any:
    """Return a part of a config without the files that a model would load while it is built: teachers, weights."""
    if isinstance(node, dict):
        return {key: value if key == 'init_cfg' else without_downloads(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(map(without_downloads, node))
    return None if isinstance(node, str) and ('://' in node or node.endswith('.pth')) else node


def with_conv_cfg(model: dict, registry: Registry) -> nn.Module | None:
    """Build a model with the operator in every ``conv_cfg`` that a class takes, but for those where it fails."""
    places = [i for i, node in enumerate(types(model)) if takes_conv_cfg(registry.get(node['type']))]

    def attempt(chosen: list[int]) -> nn.Module | None:
        own = copy.deepcopy(model)
        # A list, because what is put in has a type too.
        for i, node in enumerate(list(types(own))):
            if i in chosen and not node.get('conv_cfg'):
                node['conv_cfg'] = dict(OPERATOR)
        try:
            return build(own)
        # A class that takes the argument need not get by with every operator. A fault of the operator would look the
        # same, and count for placement: so it is told.
        except Exception as error:
            tell(f'{model["type"]}: not built with conv_cfg in {len(chosen)} of {len(places)} places', error)
            return None

    return attempt(places) or attempt([place for place in places if attempt([place]) is not None])


def replaced(model: nn.Module | None) -> set[str]:
    """Return the names of the operators in a model."""
    return {name for name, module in model.named_modules() if isinstance(module, ConvNd)} if model else set()


def count(library: str, config: str) -> dict[str, Any]:
    """Build a config, and count by class.

    Returns:
        ``'classes'``: a :class:`Share` by class; ``'forward'``: whether the operators compute what the convolutions
        did; or ``'error'``: why it was not built.
    """
    init_default_scope(library)
    registry = registry_of(library)
    model = without_downloads(Config.fromfile(folder_of_configs(library) / config).model.to_dict())
    try:
        plain = build(model)
    # The reason goes into the census: a package that is missing, weights that are downloaded.
    except Exception as error:
        return {'error': f'{type(error).__name__}: {error}'.splitlines()[0][:300]}
    by_conv_cfg = replaced(with_conv_cfg(model, registry))
    convs = {name: conv for name, conv in plain.named_modules() if isinstance(conv, nn.Conv2d)}
    owners = {name: owner(plain, name, network_classes()) for name in convs}
    holders = kept_by(plain)
    held = {name: type(plain.get_submodule(holders[conv])).__name__ for name, conv in convs.items() if conv in holders}
    before = called(plain, convs)
    if isinstance(before, str):
        # Some models hold tensors that do not move to another device.
        plain = build(model, 'cpu')
        before = called(plain, convs)
    try:
        convert(plain, OPERATOR)
    except ArgumentError as error:
        if not str(error).startswith('no convolution was replaced'):
            return {'error': f'placement: {error}'}
    by_placement = replaced(plain)
    classes: dict[str, Share] = {}
    for kind in dict.fromkeys(owners.values()):
        own = [name for name in convs if owners[name] == kind and max(convs[name].kernel_size) > 1]
        kept = Counter(reason(convs[name], held.get(name)) for name in own if name not in by_placement)
        if own:
            reached = [len(by & set(own)) for by in (by_conv_cfg, by_placement)]
            classes[kind] = Share(config, len(own), *reached, dict(kept))
    return {'classes': {kind: share._asdict() for kind, share in classes.items()}, 'forward': forward(plain, before)}


def owner(model: nn.Module, name: str, classes: set[type]) -> str:
    """Return the innermost registered class that holds a module of a model."""
    while name:
        name = name.rpartition('.')[0]
        kind = type(model.get_submodule(name))
        if kind in classes:
            return f'{kind.__module__.partition(".")[0]}.{kind.__name__}'
    return type(model).__name__


def reason(conv: nn.Conv2d, holder: str | None) -> str:
    """Return why placement keeps a convolution."""
    if not is_plain(conv):
        return peculiarity(conv)
    if holder is not None:
        return f'part of {holder}'
    return 'even kernel' if any(k % 2 == 0 for k in conv.kernel_size) else 'other'


def called(model: nn.Module, names: Any) -> set[str] | str:
    """Return the modules of these names that a model calls for an image, or the error if it cannot compute one."""
    found: set[str] = set()
    hooks = [model.get_submodule(name).register_forward_hook(lambda *_, name=name: found.add(name)) for name in names]
    problem = ''
    try:
        for side in SIDES:
            image = torch.zeros(2, 3, side, side, device=next(model.parameters()).device)
            for compute in (lambda image: model(image, mode='tensor'), getattr(model, 'backbone', None)):
                if compute is None:
                    continue
                found.clear()
                try:
                    with torch.no_grad():
                        compute(image)
                # Of a model that needs more than images, only the backbone is computed.
                except Exception as error:
                    problem = problem or f'{type(error).__name__}: {error}'.splitlines()[0][:200]
                else:
                    return set(found)
    finally:
        for hook in hooks:
            hook.remove()
    return problem


def forward(model: nn.Module, before: set[str] | str) -> str:
    """Return whether the operators of a converted model are called where its convolutions were."""
    if isinstance(before, str):
        return f'not run: {before}'
    after = called(model, [name for name, _ in model.named_modules(remove_duplicate=False) if name in before])
    if isinstance(after, str):
        return f'FAILS: {after}'
    lost = sorted(before - after)
    return f'LOST: {", ".join(lost[:5])} ({len(lost)})' if lost else 'same'


def run(folder: Path, libraries: Sequence[str]) -> None:
    """Count in every selected config that the files of the folder do not have yet."""
    for library in libraries:
        file = folder / f'{library}.json'
        done = json.loads(file.read_text()) if file.is_file() else {}
        if 'configs' not in done:
            done = {
                'date': str(date.today()),
                'versions': versions(),
                'configs': selected_configs(library),
                'counts': {},
            }
            write(file, done)
        for config in done['configs']:
            if config not in done['counts']:
                done['counts'][config] = count(library, config)
                write(file, done)
                told = done['counts'][config]
                print(f'{library} {config}: {told.get("error") or told["forward"]}', file=sys.stderr, flush=True)


def write(file: Path, content: dict) -> None:
    """Write a file of the census."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1))


def versions() -> str:
    """Return the names and versions of the installed libraries."""
    packages = [package for package, _ in TESTED.get(distribution(), {}).values()]
    return ', '.join(f'{package} {version(package)}' for package in packages)
