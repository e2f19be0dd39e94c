"""Folding whole models."""

import copy

import pytest
import torch
from torch import nn

from mmkerv.errors import FoldError
from mmkerv.ops import CKConv2d, CoCConv, CoCConv2d, KervConv1d, KervConv2d, KervConv3d, switch_to_deploy
from mmkerv.ops.core.base import Conv2d
from tests.ops.contract import relative


def block(*args, **kwargs) -> CoCConv2d:
    return CoCConv2d(*args, padding=1, super_init='kaiming', **kwargs)


class Shared(nn.Module):
    """One operator under three names, at two depths."""

    def __init__(self):
        super().__init__()
        self.first = block(4, 4, 3)
        self.again = self.first
        self.inner = nn.Sequential(nn.ReLU(), self.first)

    def forward(self, x):
        return self.inner(self.again(self.first(x)))


def test_folds_a_tree_and_keeps_the_names():
    torch.manual_seed(0)
    model = nn.Sequential(block(3, 8, 3), nn.Sequential(nn.ReLU(), block(8, 6, 3, groups=2)), nn.Conv2d(6, 2, 1)).eval()
    x, keys = torch.randn(2, 3, 7, 7), set(model.state_dict())
    expected = model(x)
    report = switch_to_deploy(model)
    assert report.replaced == ['0', '1.1'] and report.kept == {}
    assert set(model.state_dict()) == {k for k in keys if 'super_layers' not in k}
    assert not any(isinstance(m, Conv2d) for m in model.modules())
    assert relative(model(x), expected) < 1e-6


def test_a_wrong_fold_is_detected(monkeypatch):
    torch.manual_seed(0)
    model, x = nn.Sequential(block(3, 8, 3)), torch.randn(1, 3, 5, 5)
    expected = model(x)
    monkeypatch.setattr(CoCConv2d, 'kernel', lambda self: self.weight)
    switch_to_deploy(model)
    assert relative(model(x), expected) > 0.05


def test_shared_operators_stay_shared():
    torch.manual_seed(0)
    model = Shared().eval()
    x = torch.randn(1, 4, 5, 5)
    expected = model(x)
    assert sorted(switch_to_deploy(model).replaced) == ['again', 'first', 'inner.1']
    assert model.first is model.again is model.inner[1]
    assert relative(model(x), expected) < 1e-6


def test_operators_with_hooks_are_kept_and_named():
    model = nn.Sequential(block(3, 8, 3), block(8, 8, 3))
    model[0].register_forward_hook(lambda *_: None)
    report = switch_to_deploy(model)
    assert report.replaced == ['1'] and 'hooks' in report.kept['0']
    assert '0: CoCConv2d has hooks' in str(report)


def test_operators_without_an_equal_convolution_are_kept(monkeypatch):
    def refuse(self):
        raise FoldError('no convolution computes this')

    monkeypatch.setattr(CoCConv2d, 'to_conv2d', refuse)
    assert switch_to_deploy(nn.Sequential(block(3, 8, 3))).kept == {'0': 'no convolution computes this'}


def test_a_single_operator_cannot_replace_itself():
    with pytest.raises(ValueError, match='to_conv2d'):
        switch_to_deploy(block(3, 8, 3))


def test_nothing_to_fold_is_no_error():
    assert switch_to_deploy(nn.Sequential(nn.Conv2d(3, 3, 3))) == ([], {})


def test_folding_a_copy_leaves_the_original():
    model = nn.Sequential(block(3, 8, 3))
    folded = copy.deepcopy(model)
    switch_to_deploy(folded)
    assert isinstance(model[0], CoCConv2d) and type(folded[0]) is nn.Conv2d


@pytest.mark.parametrize('layer', [KervConv1d, KervConv2d, KervConv3d])
@pytest.mark.parametrize('settings', [{'kernel': 'linear'}, {'degree': 1, 'balance': 0.5}], ids=str)
@pytest.mark.parametrize('bias', [True, False])
def test_linear_kervolutions_fold(layer, settings, bias):
    torch.manual_seed(0)
    geometry = {'stride': 2, 'padding': 1, 'groups': 2, 'padding_mode': 'replicate'}
    model, x = nn.Sequential(layer(4, 6, 3, bias=bias, **geometry, **settings)), torch.randn(2, 4, *(6,) * layer.dims)
    expected = model(x)
    report = switch_to_deploy(model)
    assert report.replaced == ['0'] and type(model[0]) is (nn.Conv1d, nn.Conv2d, nn.Conv3d)[layer.dims - 1]
    assert relative(model(x), expected) < 1e-6


@pytest.mark.parametrize('layer', [KervConv1d, KervConv2d, KervConv3d])
@pytest.mark.parametrize('kernel', ['polynomial', 'gaussian', 'sigmoid', 'l1', 'l2', 'euclidean', 'arc-cosine'])
def test_other_kervolutions_are_refused_kept_and_named(layer, kernel):
    model = nn.Sequential(layer(3, 4, 3), nn.ReLU(), layer(4, 4, 3, kernel=kernel), layer(4, 4, 3, kernel='linear'))
    model[0] = nn.Identity()
    with pytest.raises(FoldError, match=f"{layer.__name__} with kernel='{kernel}' is not linear.*deploy it as it is"):
        getattr(model[2], f'to_conv{layer.dims}d')()
    x, kept = torch.randn(1, 4, *(6,) * layer.dims), model[2]
    expected = model(x)
    report = switch_to_deploy(model)
    assert report.replaced == ['3'] and list(report.kept) == ['2'] and model[2] is kept
    assert f"  2: {layer.__name__} with kernel='{kernel}' is not linear" in str(report)
    assert torch.equal(model(x), expected)


class Block(nn.Module):
    """A convolution of each kind, each before its norm, and one norm before a kervolution."""

    def __init__(self, **settings):
        super().__init__()
        self.conv, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.kerv, self.bn2 = KervConv2d(4, 4, 3, **settings), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn2(self.kerv(self.bn1(self.conv(x))))


@pytest.mark.parametrize('settings', [{}, {'kernel': 'gaussian'}, {'kernel': 'linear'}, {'learnable': True}], ids=str)
@pytest.mark.parametrize('bias', [True, False])
def test_fuse_conv_bn_leaves_kervolutions_alone(settings, bias):
    cnn = pytest.importorskip('mmcv.cnn')
    torch.manual_seed(0)
    conv_cfg, norm_cfg = {'type': KervConv2d, **settings}, {'type': 'BN'}
    model = nn.Sequential(
        cnn.ConvModule(3, 3, 3, norm_cfg=norm_cfg),
        cnn.ConvModule(3, 3, 3, bias=bias, conv_cfg=conv_cfg, norm_cfg=norm_cfg),
        Block(bias=bias, **settings),
        nn.Sequential(KervConv2d(4, 2, 1, bias=bias, **settings), nn.BatchNorm2d(2)),
    ).eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_var, 0.5, 2)
            nn.init.normal_(m.running_mean)
    x = torch.randn(2, 3, 9, 9)
    expected = model(x)
    fused = cnn.fuse_conv_bn(copy.deepcopy(model))
    assert sum(isinstance(m, nn.BatchNorm2d) for m in fused.modules()) == 3, 'those of the plain convolutions are gone'
    assert relative(fused(x), expected) < 1e-4
    for before, after in zip(model.modules(), fused.modules()):
        if isinstance(before, KervConv2d):
            assert torch.equal(before.weight, after.weight)


class Rebuilding(nn.Module):
    """Branches that are merged into a layer built from the stored config, as in upstream's RepVGG."""

    def __init__(self, conv_cfg):
        super().__init__()
        self.conv_cfg = conv_cfg
        self.layers = nn.ModuleList([self.build(), self.build()])

    def build(self):
        return nn.Conv2d(4, 4, 3) if self.conv_cfg is None else self.conv_cfg['type'](4, 4, 3, super_init='kaiming')

    def forward(self, x):
        return sum(layer(x) for layer in self.layers)

    def switch_to_deploy(self):
        merged = self.build()
        for name in ('weight', 'bias'):
            getattr(merged, name).data = sum(getattr(layer, name) for layer in self.layers).detach()
        self.layers = nn.ModuleList([merged])


@pytest.mark.parametrize('kind', [CoCConv, CoCConv2d])
def test_a_step_that_builds_layers_from_the_stored_config_is_right_after_folding(kind):
    torch.manual_seed(0)
    model, x = nn.Sequential(Rebuilding({'type': kind})), torch.randn(2, 4, 6, 6)
    expected, config = model(x), model[0].conv_cfg
    switch_to_deploy(model)
    assert model[0].conv_cfg is None and config == {'type': kind}, 'the dict may be shared'
    model[0].switch_to_deploy()
    assert len(model[0].layers) == 1 and relative(model(x), expected) < 1e-6


def test_the_step_is_refused_before_folding():
    model, x = Rebuilding({'type': CoCConv2d}), torch.randn(2, 4, 6, 6)
    expected = model(x)
    with pytest.raises(FoldError, match=r'switch_to_deploy\(\) merges branches that hold CoCConv2d .* Fold .* first'):
        model.switch_to_deploy()
    assert torch.equal(model(x), expected)


def test_the_stored_config_stays_while_an_operator_is_left():
    model = Rebuilding({'type': CoCConv2d})
    model.layers[1].register_forward_hook(lambda *_: None)
    assert switch_to_deploy(model).replaced == ['layers.0'] and model.conv_cfg == {'type': CoCConv2d}


@pytest.mark.parametrize(
    'conv_cfg, expected',
    [
        ({'type': 'CKConv', 'kernel_extent': 7}, {'type': 'mmkerv.FoldedConv', 'kernel_extent': 7}),
        ({'type': 'mmkerv.CKConv'}, None),
        ({'type': 'mmkerv.ops.CKConv2d'}, None),
        ({'type': 'KervConv'}, {'type': 'KervConv'}),
        ({'type': 'ConvWS'}, {'type': 'ConvWS'}),
        ({}, {}),
        (None, None),
    ],
    ids=str,
)
def test_stored_configs_become_those_of_the_folded_layers(conv_cfg, expected):
    model = nn.Sequential(CKConv2d(4, 4, 3))
    model.inner_conv_cfg = conv_cfg
    switch_to_deploy(model)
    assert model.inner_conv_cfg == expected


def test_functions_named_like_a_deploy_step_may_build_operators():
    def reparameterize(self):
        return CoCConv2d(3, 8, 3)

    assert isinstance(reparameterize(None), CoCConv2d)
    network = type('Network', (nn.Module,), {'reparameterize': reparameterize})()
    assert isinstance(network.reparameterize(), CoCConv2d)
    network.conv = CoCConv2d(3, 8, 3)
    with pytest.raises(FoldError, match='Fold the operators first'):
        network.reparameterize()
