"""Folding a trained network of each operator whose kernel is built from several parameters, to a file that loads."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

pytest.importorskip('mmpretrain')

from mmkerv.deploy.fold import fold_checkpoint
from mmkerv.engine.hooks.check_frozen_operators_hook import is_identity
from mmkerv.ops import DCLSConv2d
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.generated import GeneratedKernel, relative_change
from tests.engine.small_networks import SIZE, classifier
from tests.ops.catalogue import VARIANTS, layer

DENSE = dict(type='mmkerv.ResNet', depth=18, base_channels=8, where=dict(stem=False))
DEPTHWISE = dict(type='mmkerv.MobileNetV2', widen_factor=0.25, where=dict(stem=False))
NETWORKS = {
    'DCLS, larger': (DENSE, dict(type='DCLSConv', kernel_extent=5)),
    "DCLS, the host's size": (DENSE, dict(type='DCLSConv', kernel_extent=3)),
    'DCLS, points': (DENSE, dict(type='DCLSConv', version='gauss', points=4, positions_init='normal', kernel_extent=5)),
    'Reparam': (DENSE, dict(type='ReparamConv')),
    'Reparam, larger': (DENSE, dict(type='ReparamConv', preset='unirep', kernel_extent=7)),
    'Reparam, plain start': (DENSE, dict(type='ReparamConv', preset='replk', kernel_extent=7, branch_norm=None)),
    'SMP': (DENSE, dict(type='SMPConv', kernel_extent=7)),
    'Weighted': (DENSE, dict(type='WeightedConv', density=0.5)),
    'Shiftwise': (DEPTHWISE, dict(type='ShiftwiseConv', kernel_extent=9)),
    'DCLS, depthwise': (DEPTHWISE, dict(type='DCLSConv', kernel_extent=7)),
    "Inception, the host's size": (DEPTHWISE, dict(type='InceptionDWConv', branch_ratio=0.25, kernel_extent=3)),
}
# Whose folded kernels have another shape than the host's convolutions, or a bias.
OTHER_SHAPES = {'Reparam'} | {name for name, (_, conv_cfg) in NETWORKS.items() if conv_cfg.get('kernel_extent', 3) > 3}


def network(name: str) -> Config:
    backbone, conv_cfg = NETWORKS[name]
    cfg = classifier()
    cfg.model.backbone = {**backbone, 'conv_cfg': conv_cfg}
    cfg.model.head.in_channels = 64 if backbone is DENSE else 1280
    return cfg


@pytest.mark.parametrize('name', NETWORKS)
def test_a_trained_network_folds_to_a_file_that_loads(name, tmp_path):
    cfg = network(name)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    count = 0
    for module in model.modules():
        if isinstance(module, ConvNd):
            count += 1
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
    # Statistics that the norms inside the operators follow, too.
    model.train()
    for _ in range(3):
        with torch.no_grad():
            model.extract_feat(torch.randn(4, 3, *SIZE))
    model.eval()
    torch.save({'meta': {}, 'state_dict': model.state_dict()}, tmp_path / 'epoch_1.pth')
    result = fold_checkpoint(cfg, tmp_path / 'epoch_1.pth', tmp_path / 'deploy.pth', shape=SIZE, split='dense')
    assert len(result.report.replaced) == count > 5 and not result.report.kept
    assert result.error < 1e-4
    assert ('mmkerv' in (tmp_path / 'deploy.py').read_text()) == (name in OTHER_SHAPES)
    folded = MODELS.build(Config.fromfile(tmp_path / 'deploy.py').model).eval()
    folded.load_state_dict(torch.load(tmp_path / 'deploy.pth', weights_only=False)['state_dict'])
    assert not any(isinstance(module, ConvNd) for module in folded.modules())
    x = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        found, wanted = folded.extract_feat(x)[0], model.extract_feat(x)[0]
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-4


@pytest.mark.parametrize('name', [name for name in VARIANTS if isinstance(layer(name), GeneratedKernel)])
def test_the_change_of_every_kernel_is_measured(name):
    """Whether its kernel is larger than its basic weight or not."""
    operator = layer(name)
    if operator.weight is None:
        assert not is_identity(operator)
        return
    change = relative_change(operator.kernel(), operator.weight)
    assert change >= 0 and is_identity(operator) == (change <= 1e-6)


def test_a_kernel_smaller_than_its_weight_is_measured():
    operator = DCLSConv2d(4, 4, 7, padding=3, kernel_extent=5, positions_init='normal')
    assert 0 < relative_change(operator.kernel(), operator.weight) < 3 and not is_identity(operator)
