"""Canonical names of torchvision's and OpenMMLab's parameters, also by the order of the layers."""

import pytest

pytest.importorskip('mmengine')

from mmkerv.engine.checkpoint.convert_plain import SAME_LAYER_ORDER, canonical_names, names_by_layer_order
from mmkerv.errors import CheckpointMismatchError

TORCHVISION_NAME = SAME_LAYER_ORDER['MobileNetV2']
PAIRS = [(TORCHVISION_NAME, 'backbone.a.conv.weight'), ('backbone.b.running_mean', 'backbone.a.bn.running_mean')]


def shapes(names, size=8):
    return dict.fromkeys(names, (size,))


def test_names_follow_from_the_order_of_the_layers():
    given, wanted = (shapes(names) for names in zip(*PAIRS))
    given |= {'backbone.b.num_batches_tracked': (), 'head.fc.bias': (9,)}
    wanted |= {'backbone.a.bn.num_batches_tracked': (), 'head.fc.bias': (9,)}
    expected = {**dict(PAIRS), 'backbone.b.num_batches_tracked': 'backbone.a.bn.num_batches_tracked'}
    assert names_by_layer_order(given, wanted) == expected


@pytest.mark.parametrize(
    'wanted',
    [
        {},
        shapes([PAIRS[0][1]]),
        shapes([*dict(PAIRS).values(), 'backbone.c.bias']),
        shapes(dict(PAIRS).values(), size=9),
        shapes([PAIRS[0][1], 'backbone.a.bn.running_var']),
    ],
    ids=['nothing', 'a tensor less', 'a tensor more', 'another shape', 'another kind'],
)
def test_layers_must_agree_one_by_one(wanted):
    with pytest.raises(CheckpointMismatchError, match=r"torchvision's MobileNetV2 \(2 tensors\).*do not agree"):
        names_by_layer_order(shapes(dict(PAIRS)), wanted)


def test_order_is_ignored_for_known_names():
    assert names_by_layer_order(shapes([TORCHVISION_NAME]), shapes([TORCHVISION_NAME, 'backbone.b.bias'])) == {}
    assert names_by_layer_order(shapes(['backbone.conv1.weight']), shapes(['backbone.stem.weight'])) == {}


@pytest.mark.parametrize(
    'names, expected',
    [
        (['conv1.weight', 'fc.weight'], ['backbone.conv1.weight', 'head.fc.weight']),
        (['module.backbone.conv1.weight', 'module.head.fc.bias'], ['backbone.conv1.weight', 'head.fc.bias']),
        (['backbone.conv1.weight', 'fc.weight'], ['backbone.conv1.weight', 'fc.weight']),
        (['a.bias', 'classifier.1.weight', 'classifier.1.bias'], ['backbone.a.bias', 'head.fc.weight', 'head.fc.bias']),
        (['backbone.stem.2.conv.a', 'backbone.stem.1.bn.a'], ['backbone.stem.6.a', 'backbone.stem.4.a']),
        (['stem.0.conv.a', 'stem.0.bn.a', 'stem.3.a'], ['backbone.stem.0.a', 'backbone.stem.1.a', 'backbone.stem.3.a']),
        (['classifier.0.weight', 'classifier.3.bias'], ['head.layers.0.fc.weight', 'head.layers.1.fc.bias']),
    ],
)  # fmt: skip
def test_names_become_canonical(names, expected):
    assert canonical_names(names) == dict(zip(names, expected))


def test_two_names_for_one_parameter_are_refused():
    with pytest.raises(
        CheckpointMismatchError, match=r'conv\.bias and module\.conv\.bias are both backbone\.conv\.bias'
    ):
        canonical_names(['conv.bias', 'module.conv.bias'])
