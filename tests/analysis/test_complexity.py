"""Multiply-adds of an image and of the kernels, and parameters, before and after folding."""

import math

import pytest
import torch
from torch import nn

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')
from mmengine.registry import MODELS, init_default_scope

from mmkerv.analysis.complexity import complexity
from mmkerv.analysis.layer_report import layer_report, to_markdown
from mmkerv.ops import CKConv, CoCConv2d, CondConv2d, FDConv2d, KANConv2d, KervConv2d
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


@pytest.mark.parametrize(
    ('make', 'own'),
    [
        # The gates, (C + 1) products each without their biases, and the sum of the experts.
        (lambda form: CondConv2d(8, 16, 3, bias=False, experts=2, export_form=form), 8 * 2 + 2 * 16 * 8 * 9),
        (lambda form: CondConv2d(8, 16, 3, bias=False, kernel=False, filter=True, export_form=form), 8 * 16),
        # The local gates look at three channels.
        (lambda form: FDConv2d(8, 16, 3, bias=False, ksm_global=False, fbm=False), 3 * 16 * 9 * 8),
    ],
    ids=['experts', 'filters', 'local'],
)
@pytest.mark.parametrize('form', ['unfold', 'mixture'])
def test_an_image_pays_for_its_own_kernel(make, own, form):
    """Whatever the form of an exported graph, in which mmengine counts."""
    model = nn.Sequential(make(form)).eval()
    found = complexity(model, (10, 12))
    norms = found.image - 8 * 10 * 16 * 8 * 9 - own
    assert 0 <= norms <= 5 * 8 and found.kernels == 0 and found.folded == found.image
    assert model[0].options.export_form == (form if isinstance(model[0], CondConv2d) else 'unfold')


def test_fourier_transforms_are_counted_as_such():
    """Not as the products of matrices that an exported graph has instead of them."""
    model = nn.Sequential(FDConv2d(32, 32, 3, kernel_num=4, ksm_local=False, fbm=False, bias=False)).eval()
    coefficients = 96 * 96
    transforms = complexity(model, (3, 3)).image - 32 * 32 * 9 - 16 * (32 + 32 + 32 + 9 + 4)
    assert 0 <= transforms - 2 * coefficients * math.log2(coefficients) < 0.01 * coefficients
    row = layer_report(model, (3, 3)).layers[0]
    assert row.own == row.macs - 32 * 32 * 9 and 'FDConv2d' in to_markdown(layer_report(model, (3, 3)), 'net')
