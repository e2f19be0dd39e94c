import pytest
from torch import nn

pytest.importorskip('mmengine')

from mmkerv.errors import ConfigError
from mmkerv.models.layers import find_layers, find_operators
from mmkerv.ops import CoCConv2d


@pytest.fixture
def nested() -> nn.Module:
    return nn.Sequential(nn.Sequential(CoCConv2d(4, 4, 3), nn.ReLU()), nn.Conv2d(4, 4, 1), CoCConv2d(4, 4, 3))


def test_a_leading_model_in_a_name_is_ignored(nested):
    assert find_layers(nested, ['model.0.1', '1']) == {'0.1': nested[0][1], '1': nested[1]}


def test_an_unknown_layer_is_refused_with_the_nearest_names(nested):
    with pytest.raises(ConfigError, match=r"no layer '0\.7'; the nearest names are .*0\.1"):
        find_layers(nested, ['0.7'])


def test_operators_of_the_model_and_of_a_part_are_found(nested):
    assert list(find_operators(nested)) == ['0.0', '2']
    assert list(find_operators(nested, ['0'])) == ['0.0']


def test_a_part_without_operators_is_refused_with_those_elsewhere(nested):
    with pytest.raises(ConfigError, match=r"layer '1' has no operator of mmkerv; the model has some in 0\.0, 2"):
        find_operators(nested, ['1'])
    with pytest.raises(ConfigError, match=r'the model \(Sequential\) has no operator of mmkerv; choose a config'):
        find_operators(nn.Sequential(nn.Conv2d(1, 1, 1)))
