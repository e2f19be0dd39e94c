"""`fuse()` and its like of other libraries fold the operators of a converted network first."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

import mmkerv
from mmkerv.ops import CoCConv2d, KervConv2d, switch_to_deploy
from mmkerv.ops.core.fold import FoldFirst
from tests.ops.contract import relative


class Block(nn.Module):
    """A convolution and its norm, which `fuse` merges as ultralytics' networks do."""

    __module__ = 'ultralytics.nn'

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn(self.conv(x))

    def fuse(self, verbose=True):
        bn = self.bn
        self.conv.weight, self.conv.bias = fuse_conv_bn_weights(
            self.conv.weight, self.conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
        )
        self.bn = nn.Identity()
        return self


class Features(Block):
    """A network of another library, whose `fuse` is part of its forward."""

    __module__ = 'mmdet.models'

    def fuse(self, features):
        return features + 1

    def forward(self, x):
        return self.fuse(super().forward(x))


# For pickle, which looks classes up by the names above.
BlockHere = Block
Block.__module__ = Features.__module__ = __name__
LIBRARY = {'ultralytics': 'ultralytics.nn', 'timm': 'timm.models', 'mmpretrain': 'mmpretrain.models'}


@pytest.fixture(params=LIBRARY)
def network(request, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(Block, '__module__', LIBRARY[request.param])
    model = nn.Sequential(Block(), nn.ReLU(), Block()).eval()
    for block in (model[0], model[2]):
        nn.init.uniform_(block.bn.running_var, 0.5, 2)
        nn.init.normal_(block.bn.running_mean)
    return model


def converted(model, conv_cfg):
    mmkerv.convert(model, conv_cfg)
    for module in model.modules():
        if isinstance(module, CoCConv2d):
            nn.init.normal_(module.super_layers[0].weight, std=0.3)
    return model


def test_a_converted_network_fuses_right(network):
    model, x = converted(network, dict(type='CoCConv')), torch.randn(2, 4, 7, 7)
    expected = model(x)
    for block in (model[0], model[2]):
        assert relative(block.conv.weight, block.conv.kernel()) > 0.1
        assert block.fuse(verbose=False) is block
    assert relative(model(x), expected) < 1e-6
    assert not any(isinstance(m, (CoCConv2d, nn.BatchNorm2d)) for m in model.modules())


def test_what_does_not_fold_is_not_fused(network, caplog):
    model, x = converted(network, dict(type='KervConv')), torch.randn(2, 4, 7, 7)
    expected = model(x)
    with caplog.at_level('INFO'):
        assert model[0].fuse() is model[0]
    assert torch.equal(model(x), expected)
    assert isinstance(model[0].conv, KervConv2d) and isinstance(model[0].bn, nn.BatchNorm2d)


def test_copies_fuse_themselves(network):
    model, x = converted(network, dict(type='CoCConv')), torch.randn(2, 4, 7, 7)
    expected, copied = model(x), copy.deepcopy(model)
    copied[0].fuse()
    assert type(copied[0].conv) is nn.Conv2d and type(model[0].conv) is CoCConv2d
    assert relative(copied(x), expected) < 1e-6 and torch.equal(model(x), expected)


def test_a_pickled_network_fuses_right():
    model, x = nn.Sequential(BlockHere()).eval(), torch.randn(2, 4, 7, 7)
    mmkerv.convert(model, dict(type='CoCConv'))
    model[0].fuse = FoldFirst(model[0], 'fuse')
    nn.init.normal_(model[0].conv.super_layers[0].weight, std=0.3)
    loaded = pickle.loads(pickle.dumps(model))
    loaded[0].fuse()
    assert type(loaded[0].conv) is nn.Conv2d and relative(loaded(x), model(x)) < 1e-6


def test_folding_leaves_nothing_of_mmkerv_in_the_network(network):
    model = converted(network, dict(type='CoCConv'))
    assert 'fuse' in vars(model[0])
    switch_to_deploy(model)
    assert b'mmkerv' not in b''.join(repr(vars(m)).encode() for m in model.modules())


def test_a_method_that_fuses_features_is_left_alone(monkeypatch):
    monkeypatch.setattr(Features, '__module__', 'mmdet.models')
    model = nn.Sequential(Features())
    mmkerv.convert(model, dict(type='CoCConv'))
    model(torch.randn(1, 4, 5, 5))
    assert 'fuse' not in vars(model[0]) and isinstance(model[0].conv, CoCConv2d)


def test_the_log_of_convert_names_the_methods(network, monkeypatch):
    lines = []
    monkeypatch.setattr('mmkerv.models.placement.log', lines.append)
    mmkerv.convert(network, dict(type='CoCConv'))
    assert 'Block.fuse() of this network read weights as kernels, so they fold the operators first' in lines[0]


@pytest.mark.parametrize('name', ['mobileone_s0', 'repvit_m0_9', 'fastvit_t8', 'levit_128s'])
@torch.no_grad()
def test_networks_of_timm_are_reparametrised_right(name):
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    model = converted(timm.create_model(name, num_classes=3).eval(), dict(type='CoCConv'))
    x = torch.randn(1, 3, *model.default_cfg['input_size'][1:])
    expected = model(x)
    merged = timm.utils.reparameterize_model(model)
    assert len(list(merged.modules())) < len(list(model.modules())) and any(
        isinstance(m, CoCConv2d) for m in model.modules()
    )
    assert relative(merged(x), expected) < 1e-5


@pytest.mark.parametrize('conv_cfg', [dict(type='CoCConv'), dict(type='KervConv')], ids=['folds', 'does not fold'])
def test_switch_to_deploy_of_our_own_backbones_stays_theirs(conv_cfg, monkeypatch):
    """It folds by itself, and returns the report that tools print."""
    pytest.importorskip('mmpretrain')
    from mmkerv.models import ResNet

    lines = []
    monkeypatch.setattr('mmkerv.models.placement.log', lines.append)
    report = ResNet(depth=18, base_channels=8, host='mmpretrain', conv_cfg=conv_cfg).switch_to_deploy()
    assert lines and 'switch_to_deploy' not in lines[0]
    # KervConv takes the downsampling, which is 1x1, too.
    assert (len(report.replaced), len(report.kept)) == ((17, 0) if conv_cfg['type'] == 'CoCConv' else (0, 21))
