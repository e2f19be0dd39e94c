"""Responses of kervolutions against the layers and against formulas."""

import numpy as np
import pytest
import torch

pytest.importorskip('matplotlib')

from mmkerv.ops import KervConv1d, KervConv2d
from mmkerv.ops.kerv import KERNELS
from mmkerv.visualization import response_arrays, response_figure


def test_the_own_response_is_the_output_of_the_layer():
    torch.manual_seed(0)
    conv = KervConv2d(4, 6, 3, groups=2, kernel='gaussian', learnable=True, per_channel=True, bias=False)
    with torch.no_grad():
        conv.gamma.copy_(torch.linspace(0.1, 2, 6))
    arrays = response_arrays(conv, topk=6, reach=1.5)
    for row, number in enumerate(arrays['filters']):
        for t, response in list(zip(arrays['t'], arrays['own'][row]))[::40]:
            patch = torch.zeros(1, 4, 3, 3)
            half = slice(0, 2) if number < 3 else slice(2, 4)
            patch[0, half] = float(t) * conv.weight[number].detach()
            assert conv(patch)[0, number].item() == pytest.approx(response, abs=1e-5)
    assert arrays['t'][[0, -1]].tolist() == [-1.5, 1.5]


def test_other_kernels_have_their_default_hyperparameters():
    conv = KervConv2d(2, 3, 3, degree=2, balance=0.5)
    arrays = response_arrays(conv)
    assert set(arrays) == {'filters', 't', 'own', *KERNELS} - {'polynomial'}
    w = conv.weight.detach().flatten(1).double()
    for row in range(3):
        norm = float(w[row] @ w[row])
        assert np.allclose(arrays['own'][row], (arrays['t'] * norm + 0.5) ** 2, rtol=1e-4)
        assert np.allclose(arrays['linear'][row], arrays['t'] * norm, rtol=1e-4, atol=1e-6)
        assert np.allclose(arrays['gaussian'][row], np.exp(-((arrays['t'] - 1) ** 2) * norm / 18), rtol=1e-4)


def test_a_line_between_two_random_patches():
    conv = KervConv1d(2, 3, 5, kernel='linear')
    arrays = response_arrays(conv, line='patches', seed=3)
    assert arrays['t'][[0, -1]].tolist() == [0, 1]
    middle = (arrays['own'][:, :1] + arrays['own'][:, -1:]) / 2
    assert np.allclose(arrays['own'][:, 100:101], middle, atol=1e-6) and np.ptp(arrays['own']) > 0
    assert not np.allclose(response_arrays(conv, line='patches', seed=4)['own'], arrays['own'])


def test_the_figure_shows_every_kernel():
    figure = response_figure(KervConv2d(1, 6, 5, learnable=True), 'conv1', topk=2)
    assert figure.axes[0].get_title() == 'own: polynomial, degree=3, balance=1 (learned)'
    assert len(figure.axes) == len(KERNELS)
    assert all(len(axes.lines) == 3 for axes in figure.axes), 'two filters and the line at 0'


@pytest.mark.parametrize('wrong', [{'line': 'around'}, {'reach': 0.0}, {'topk': 0}])
def test_bad_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        response_arrays(KervConv2d(1, 6, 5), **wrong)
