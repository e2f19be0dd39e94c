"""Picture of principal components: what is drawn, and what is left out."""

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('mmengine')
pytest.importorskip('matplotlib')

from mmkerv.analysis.depthwise_patterns import templates
from mmkerv.analysis.statistics_report import kernels_of
from mmkerv.errors import ConfigError
from mmkerv.ops import KervConv2d
from mmkerv.visualization import component_arrays, components_figure, pattern_arrays


def test_components_of_the_three_commonest_sizes():
    sizes = [(7, 7), (3, 3), (1, 5), (5, 5), (1, 1)]
    model = nn.Sequential(*(nn.Conv2d(4, 4 * n, size) for n, size in enumerate(sizes, 1)))
    arrays = component_arrays(kernels_of(model))
    assert list(arrays) == [(5, 5), (1, 5), (3, 3)]
    assert [axes.shape for axes, _ in arrays.values()] == [(9, 5, 5), (5, 1, 5), (9, 3, 3)]
    axes, shares = arrays[3, 3]
    assert np.allclose(axes.reshape(9, 9) @ axes.reshape(9, 9).T, np.eye(9), atol=1e-10)
    assert np.isclose(shares.sum(), 1) and (np.diff(shares) <= 0).all()


def test_a_row_for_each_network_and_size():
    nets = [kernels_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, k))) for k in (5, 7)]
    figure = components_figure([('one', nets[0]), ('two', nets[1])], 'title')
    labels = [axes.get_yticklabels()[0].get_text() for axes in figure.axes]
    assert labels == ['one\n3×3', 'two\n3×3', 'one\n5×5', 'two\n7×7']
    assert [len(axes.images) for axes in figure.axes] == [9] * 4


def test_patterns_of_depthwise_kernels_have_rows_below():
    model = nn.Sequential(*(nn.Conv2d(6, 6, k, groups=6) for k in (3, 5, 7)), nn.Conv2d(6, 6, 7))
    with torch.no_grad():
        # Three first derivatives along y, and the others are noise.
        model[2].weight[:3] = -templates((7, 7))[9:12, None]
    found = pattern_arrays(kernels_of(model))
    assert list(found) == [(7, 7)] and next(iter(found[7, 7])) == 'dy'
    mean, share = found[7, 7]['dy']
    assert share == 0.5 and mean[6, 3] > 0 > mean[0, 3]
    figure = components_figure([('net', kernels_of(model))])
    labels = [axes.get_yticklabels()[0].get_text() for axes in figure.axes]
    assert labels[-1] == 'net\n7×7 patterns' and len(figure.axes[-1].images) == len(found[7, 7])
    assert figure.axes[-1].texts[0].get_text() == 'dy 50.0%'


def test_what_cannot_be_drawn_is_left_out():
    broken, equal = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 5)
    nn.init.constant_(broken.weight, float('nan'))
    nn.init.constant_(equal.weight, 0.1)
    model = nn.Sequential(broken, equal, nn.Conv2d(3, 8, 1), nn.Conv1d(3, 8, 9), KervConv2d(3, 8, 7))
    assert component_arrays(kernels_of(model)) == {}
    with pytest.raises(ConfigError, match='nothing to draw'):
        components_figure([('net', kernels_of(model))])
    with torch.no_grad():
        broken.weight.normal_()
    assert list(component_arrays(kernels_of(model))) == [(3, 3)]
