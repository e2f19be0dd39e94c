"""Multiply-adds of an image and of the kernels, and parameters, before and after folding."""

import pytest
import torch
from torch import nn

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')
from mmengine.registry import MODELS, init_default_scope

from mmkerv.analysis.complexity import complexity
from mmkerv.ops import CKConv, CoCConv2d, KANConv2d, KervConv2d
from tests.engine.small_networks import NETWORKS, associated


def test_counts_of_one_layer_agree_with_the_formula():
    model = nn.Sequential(CoCConv2d(8, 16, 3, padding=1, bias=False)).eval()
    found = complexity(model, (10, 12))
    assert found.image == found.folded == 10 * 12 * 16 * 8 * 9
    # Four groups of four filters: a matrix of 36 x 36 for each, times the 8 input channels.
    assert found.kernels >= 4 * 36 * 36 * 8
    super_layer = model[0].super_layers[0]
    assert found.folded_parameters == 16 * 8 * 9
    assert found.parameters == 16 * 8 * 9 + super_layer.weight.numel()


@pytest.mark.parametrize('make', [lambda: KervConv2d(3, 8, 3), lambda: CKConv(3, 8, 3)], ids=['kerv', 'ck'])
def test_an_image_costs_as_much_as_with_a_convolution(make):
    plain = complexity(nn.Sequential(nn.Conv2d(3, 8, 3)).eval(), (9, 9))
    found = complexity(nn.Sequential(make()).eval(), (9, 9))
    assert plain.image == 7 * 7 * 8 * 27 and plain.kernels == 0
    assert found.image == plain.image == found.folded


def test_lifted_channels_count():
    model = nn.Sequential(KANConv2d(4, 6, 3, groups=2), KANConv2d(6, 2, 1, basis='gram', bias=False)).eval()
    found, weights = complexity(model, (9, 9)), 9 * 6 * 2 * 9
    assert found.image == found.folded == 7 * 7 * (weights + 5 * 6 * 2) and found.kernels == 0
    assert found.parameters == weights + 6 + 5 * 6 * 2


@pytest.mark.parametrize('name', NETWORKS)
def test_a_folded_network_costs_as_much_as_the_plain_one(name):
    pytest.importorskip({'classifier': 'mmpretrain', 'segmentor': 'mmseg'}.get(name, 'mmdet'))
    cfg = NETWORKS[name]()
    model = associated(cfg)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = complexity(model, (64, 64))
    plain = _plain(cfg)
    expected = complexity(plain, (64, 64))
    assert found.image == found.folded == expected.image
    assert found.kernels > 0 == expected.kernels
    assert found.folded_parameters == expected.parameters < found.parameters
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def _plain(cfg):
    from mmkerv.deploy.config import deploy_config

    init_default_scope(cfg.default_scope)
    from mmengine.model import revert_sync_batchnorm

    return revert_sync_batchnorm(MODELS.build(deploy_config(cfg).model)).eval()


def test_counts_of_a_sequence_network():
    from mmkerv.models.zoo.ckcnn import CKCNN

    model = CKCNN(1, 4, num_blocks=1, hidden=4, kernel_size=20).eval()
    found, plain = complexity(model, (1, 20)), 20 * 20 * (4 + 16) + 20 * 4
    norms = found.image - plain
    assert 0 <= norms < 0.1 * plain and found.folded == found.image and found.kernels > 0
    assert found.folded_parameters == sum(p.numel() for n, p in model.named_parameters() if 'kernel_net' not in n) + 400
