"""Names of a plain network's parameters, torchvision's and OpenMMLab's, in one form."""

import re
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any

from mmkerv.errors import CheckpointMismatchError

BODY = 'backbone.'
COUNTER = '.num_batches_tracked'
# Families whose layers torchvision and mmpretrain name differently and register in one order, and a name that is
# torchvision's alone. Equal shapes in one order prove nothing about other networks: these were compared by output.
IN_ORDER = {
    'MobileNetV2': f'{BODY}features.1.conv.0.0.weight',
    'MobileNetV3': f'{BODY}features.1.block.0.0.weight',
    'ShuffleNetV2': f'{BODY}stage2.0.branch1.0.weight',
}
STEM = re.compile(rf'^((?:{BODY})?stem\.)([012])\.(conv|bn)\.')


def canonical(names: Iterable[str]) -> dict[str, str]:
    """Return for each parameter's name where it stands in an OpenMMLab network: below ``backbone.`` or a head.

    Names that no one prefixed with ``backbone.`` are a backbone's, but for the classifier: torchvision's ``fc`` and
    ``classifier`` are mmpretrain's ``head.fc``, or ``head.layers.0.fc``, ``head.layers.1.fc``, ... if there are several
    linear layers. The deep stem of mmpretrain's ResNetV1c and V1d, of ``conv`` and ``bn``, is numbered as elsewhere.

    Raises:
        CheckpointMismatchError: if two names stand in one place.

    Example:
        >>> canonical(['module.conv1.weight', 'module.fc.bias'])
        {'module.conv1.weight': 'backbone.conv1.weight', 'module.fc.bias': 'head.fc.bias'}
        >>> canonical(['backbone.conv1.weight', 'fc.bias'])
        {'backbone.conv1.weight': 'backbone.conv1.weight', 'fc.bias': 'fc.bias'}
    """
    places = {name: _numbered(re.sub(r'^(module\.)+', '', name)) for name in names}
    if not any(place.startswith(BODY) for place in places.values()):
        places = _below_backbone(places)
    taken: dict[str, str] = {}
    for name, place in places.items():
        if taken.setdefault(place, name) != name:
            raise CheckpointMismatchError(f'{taken[place]} and {name} are both {place}; leave one of them out')
    return places


def _below_backbone(places: dict[str, str]) -> dict[str, str]:
    linear = dict.fromkeys(p.rpartition('.')[0] for p in places.values() if part(p) in ('fc', 'classifier'))
    heads = [f'head.layers.{i}.fc' for i in range(len(linear))] if len(linear) > 1 else ['head.fc']
    linear = dict(zip(linear, heads))

    def placed(place: str) -> str:
        module, _, parameter = place.rpartition('.')
        if module in linear:
            return f'{linear[module]}.{parameter}'
        return place if part(place) == 'head' else f'{BODY}{place}'

    return {name: placed(place) for name, place in places.items()}


def in_order(given: Mapping[str, tuple], wanted: Mapping[str, tuple]) -> dict[str, str]:
    """Return mmpretrain's name for each of torchvision's of a family of ``IN_ORDER``; nothing for other networks.

    Args:
        given: shapes by the checkpoint's names, as :func:`canonical` gives them, in the order of the layers.
        wanted: those of the plain network.

    Raises:
        CheckpointMismatchError: if the two do not agree one by one in kind and shape.

    Example:
        >>> mark = IN_ORDER['ShuffleNetV2']
        >>> in_order({mark: (24, 1, 3, 3)}, {'backbone.layers.0.0.branch1.0.conv.weight': (24, 1, 3, 3)})
        {'backbone.stage2.0.branch1.0.weight': 'backbone.layers.0.0.branch1.0.conv.weight'}
    """
    family = next((family for family, mark in IN_ORDER.items() if mark in given and mark not in wanted), None)
    if family is None:
        return {}
    theirs, ours = ([n for n in names if n.startswith(BODY) and not n.endswith(COUNTER)] for names in (given, wanted))
    modules = {}
    for their, our in zip_longest(theirs, ours):
        kinds = {(name or '').rpartition('.')[2] for name in (their, our)}
        if len(kinds) > 1 or given[their] != wanted[our]:
            found, expected = f'{their} {given.get(their, "")}', f'{our} {wanted.get(our, "")}'
            raise CheckpointMismatchError(
                f"torchvision's {family} ({len(theirs)} tensors) and the backbone ({len(ours)} tensors) do not agree "
                f'layer by layer: {found} stands where {expected} should. Give, with --config, {family} of '
                'mmpretrain with the same width'
            )
        modules[their.rpartition('.')[0]] = our.rpartition('.')[0]
    places = ((name, *name.rpartition('.')) for name in given if name.startswith(BODY))
    return {name: f'{modules[module]}.{parameter}' for name, module, _, parameter in places}


def part(place: str) -> str:
    """Return the top-level part of a network in which a parameter stands.

    Example:
        >>> part('backbone.conv1.weight')
        'backbone'
    """
    return place.partition('.')[0]


def shape(value: Any) -> tuple:
    """Return the shape of a tensor; that of anything else is empty.

    Example:
        >>> shape(3.0)
        ()
    """
    return tuple(getattr(value, 'shape', ()))


def _numbered(place: str) -> str:
    """The deep stem as mmdet and mmseg name it: convolution, norm and activation three times in one Sequential."""
    return STEM.sub(lambda match: f'{match[1]}{3 * int(match[2]) + (match[3] == "bn")}.', place)
