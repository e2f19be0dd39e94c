"""Names of torchvision and OpenMMLab in one form, and by the order of the layers."""

import pytest

pytest.importorskip('mmengine')

from mmkerv.engine.checkpoint.plain_names import IN_ORDER, canonical, in_order
from mmkerv.errors import CheckpointMismatchError

MARK = IN_ORDER['MobileNetV2']
PAIRS = [(MARK, 'backbone.a.conv.weight'), ('backbone.b.running_mean', 'backbone.a.bn.running_mean')]


def shapes(names, size=8):
    return dict.fromkeys(names, (size,))


def test_order_gives_the_names():
    given, wanted = (shapes(names) for names in zip(*PAIRS))
    given |= {'backbone.b.num_batches_tracked': (), 'head.fc.bias': (9,)}
    wanted |= {'backbone.a.bn.num_batches_tracked': (), 'head.fc.bias': (9,)}
    expected = {**dict(PAIRS), 'backbone.b.num_batches_tracked': 'backbone.a.bn.num_batches_tracked'}
    assert in_order(given, wanted) == expected


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
def test_order_must_be_exact(wanted):
    with pytest.raises(CheckpointMismatchError, match=r"torchvision's MobileNetV2 \(2 tensors\).*do not agree"):
        in_order(shapes(dict(PAIRS)), wanted)


def test_order_is_not_asked_for_known_names():
    assert in_order(shapes([MARK]), shapes([MARK, 'backbone.b.bias'])) == {}
    assert in_order(shapes(['backbone.conv1.weight']), shapes(['backbone.stem.weight'])) == {}


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
def test_canonical_names(names, expected):
    assert canonical(names) == dict(zip(names, expected))


def test_two_names_for_one_place():
    with pytest.raises(
        CheckpointMismatchError, match=r'conv\.bias and module\.conv\.bias are both backbone\.conv\.bias'
    ):
        canonical(['conv.bias', 'module.conv.bias'])
