"""Networks of upstream that merge the branches of their blocks: after the fold it is right, before it is refused."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

pytest.importorskip('mmpretrain')

import mmkerv
from mmkerv.deploy.fold import fold_checkpoint
from mmkerv.deploy.model_outputs import largest_difference
from mmkerv.engine import safe_load
from mmkerv.errors import FoldCheckError, FoldError
from mmkerv.ops import CoCConv2d, switch_to_deploy
from mmkerv.ops.core.base import ConvNd

SIZE = (64, 64)
KAIMING = dict(type='mmkerv.CoCConv', super_init='kaiming')
REPVGG = dict(
    num_blocks=[1, 2, 1, 1], width_factor=[0.25, 0.25, 0.25, 0.125], group_layer_map=None, se_cfg=None, stem_channels=16
)
MOBILEONE = dict(num_blocks=[1, 2, 1, 1], width_factor=[0.25, 0.25, 0.25, 0.25], num_conv_branches=[2, 2, 1, 1], num_se_blocks=[0] * 4)  # fmt: skip # noqa: E501
REPMLP = dict(channels=[8, 16, 32, 64], depths=[1, 1, 1, 1], sharesets_nums=[1, 2, 4, 8])
REPLK = dict(large_kernel_sizes=[7, 5, 5, 3], layers=[1, 1, 1, 1], channels=[8, 16, 32, 64], small_kernel=3, dw_ratio=1)
# RepMLP has 2x2 convolutions, which CoC does not replace.
LINEAR = dict(type='mmkerv.KervConv', kernel='linear')
# Networks that take conv_cfg, and those that have to be converted; the width of the last feature.
TAKING = {
    'RepVGG': (dict(type='RepVGG', arch=REPVGG), 64),
    'MobileOne': (dict(type='MobileOne', arch=MOBILEONE), 256),
    'RepMLPNet': (dict(type='RepMLPNet', arch=REPMLP, img_size=SIZE), 64),
}
CONVERTED = {
    'RepVGG': TAKING['RepVGG'],
    'MobileOne': TAKING['MobileOne'],
    'RepMLPNet': TAKING['RepMLPNet'],
    'RepLKNet': (dict(type='RepLKNet', arch=REPLK), 64),
    'LeViT': (dict(type='LeViT', arch='128s', img_size=64), 384),
}


def config(backbone: dict, channels: int) -> Config:
    model = dict(
        type='ImageClassifier',
        data_preprocessor=dict(type='ClsDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3),
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', in_channels=channels, num_classes=4),
    )
    return Config(dict(default_scope='mmpretrain', custom_imports=dict(imports=['mmkerv']), model=model))


@torch.no_grad()
def built(cfg: Config) -> nn.Module:
    """Build a network with super layers and statistics as after training."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg.model))
    for module in model.modules():
        if isinstance(module, CoCConv2d):
            nn.init.normal_(module.super_layers[0].weight, std=0.2)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.1)
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model.eval()


def networks():
    for name, (backbone, channels) in TAKING.items():
        conv_cfg = LINEAR if name == 'RepMLPNet' else KAIMING
        yield pytest.param(config({**backbone, 'conv_cfg': conv_cfg}, channels), id=name)
    for name, (backbone, channels) in CONVERTED.items():
        sizes = [3, 5] if name in ('RepLKNet', 'LeViT') else [3]
        backbone = dict(type='mmkerv.Converted', backbone=backbone, conv_cfg=KAIMING, where=dict(kernel_sizes=sizes))
        yield pytest.param(config(backbone, channels), id=f'{name}, converted')


every_network = pytest.mark.parametrize('cfg', list(networks()))


@every_network
@torch.no_grad()
def test_the_step_is_right_after_folding(cfg):
    model, x = built(cfg), torch.randn(1, 3, *SIZE)
    expected = [*model.backbone(x)]
    report = switch_to_deploy(model)
    assert report.replaced and not report.kept
    assert largest_difference(expected, [*model.backbone(x)]) < 1e-6
    before = len(list(model.backbone.modules()))
    model.backbone.switch_to_deploy()
    assert len(list(model.backbone.modules())) < before and not any(isinstance(m, ConvNd) for m in model.modules())
    assert largest_difference(expected, [*model.backbone(x)]) < 1e-5


@every_network
@torch.no_grad()
def test_the_step_alone_is_refused_or_right(cfg):
    model, x = built(cfg), torch.randn(1, 3, *SIZE)
    expected = [*model.backbone(x)]
    # RepMLP builds only 1x1 convolutions from its conv_cfg, which stay plain.
    if cfg.model.backbone.type in ('mmkerv.Converted', 'RepMLPNet'):
        model.backbone.switch_to_deploy()
        assert largest_difference(expected, [*model.backbone(x)]) < 1e-5
    else:
        with pytest.raises(FoldError, match=r'mmkerv\.ops\.switch_to_deploy'):
            model.backbone.switch_to_deploy()
        assert largest_difference(expected, [*model.backbone(x)]) == 0


@every_network
def test_the_fold_tool_does_both_and_the_deploy_config_builds_it(cfg, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr('mmkerv.deploy.fold.log', lines.append)
    model = built(cfg)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'a.pth')
    arguments = (cfg, tmp_path / 'a.pth')
    plain = fold_checkpoint(*arguments, tmp_path / 'plain.pth', shape=SIZE)
    assert plain.error == 0 and '--upstream-deploy' in lines[0]
    merged = fold_checkpoint(*arguments, tmp_path / 'merged.pth', shape=SIZE, upstream_deploy=True)
    assert merged.error < 1e-5 and len(lines) == 1
    keys = [set(safe_load(tmp_path / f'{name}.pth')['state_dict']) for name in ('plain', 'merged')]
    assert len(keys[1]) < len(keys[0])
    deployed = Config.fromfile(tmp_path / 'merged.py')
    assert 'mmkerv' not in deployed.pretty_text
    assert deployed.model.backbone.get('deploy') or deployed.model.backbone.get('small_kernel_merged')


def test_a_network_without_the_step_is_refused(tmp_path):
    cfg = config(dict(type='ResNet', depth=18, base_channels=8, conv_cfg=KAIMING), 64)
    torch.save({'state_dict': built(cfg).state_dict()}, tmp_path / 'a.pth')
    with pytest.raises(FoldCheckError, match='--upstream-deploy: ResNet has no deploy step of its own'):
        fold_checkpoint(cfg, tmp_path / 'a.pth', tmp_path / 'b.pth', shape=SIZE, upstream_deploy=True)
    assert not (tmp_path / 'b.pth').exists()


def test_operators_that_do_not_fold_are_refused(tmp_path):
    cfg = config(dict(TAKING['RepVGG'][0], conv_cfg=KAIMING), 64)
    model = built(cfg)
    mmkerv.convert(model.backbone.stem.branch_1x1, dict(type='KervConv'), where=dict(kernel_sizes='all'))
    from mmkerv.deploy.upstream_step import merge_branches

    switch_to_deploy(model)
    with pytest.raises(FoldCheckError, match=r'1 operators of the backbone do not fold \(stem.branch_1x1.conv'):
        merge_branches(model, cfg)


def test_unireplknet_is_merged_without_asking(tmp_path):
    """The config has no form for a UniRepLKNet of which only the large kernels are folded."""
    arch = {'depths': (1, 1, 2, 1), 'channels': 8, 'kernel_sizes': (3, 13, (13, 3), 13)}
    cfg = config(dict(type='mmkerv.UniRepLKNet', arch=arch), 64)
    cfg.model.neck = None
    torch.save({'state_dict': built(cfg).state_dict()}, tmp_path / 'a.pth')
    result = fold_checkpoint(cfg, tmp_path / 'a.pth', tmp_path / 'deploy.pth', shape=SIZE)
    assert result.error < 1e-5 and len(result.report.replaced) == 3
    assert Config.fromfile(tmp_path / 'deploy.py').model.backbone.deploy


def converted_backbone(backbone: dict, **how) -> dict:
    return dict(type='mmkerv.Converted', model=backbone, **how)


@pytest.mark.parametrize('whole', [False, True], ids=['backbone', 'whole model'])
@pytest.mark.parametrize('conv_cfg', [KAIMING, dict(type='mmkerv.DCLSConv', kernel_extent=5)], ids=['CoC', 'DCLS'])
def test_unireplknet_inside_converted_is_merged(whole, conv_cfg, tmp_path):
    """``deploy`` belongs to the network's own config, not to that of ``Converted`` around it."""
    arch = {'depths': (1, 1, 2, 1), 'channels': 8, 'kernel_sizes': (3, 13, (13, 3), 13)}
    how = dict(conv_cfg=conv_cfg)
    backbone = dict(type='mmkerv.UniRepLKNet', arch=arch)
    cfg = config(backbone if whole else converted_backbone(backbone, **how), 64)
    cfg.model.neck = None
    if whole:
        cfg.model = converted_backbone(cfg.model, **how)
    torch.save({'state_dict': built(cfg).state_dict()}, tmp_path / 'a.pth')
    result = fold_checkpoint(cfg, tmp_path / 'a.pth', tmp_path / 'deploy.pth', shape=SIZE)
    assert result.error < 1e-5 and len(result.report.replaced) > 3


def test_the_cost_of_layers_that_the_merge_removes_is_reported(tmp_path):
    conv_cfg = dict(type='mmkerv.InceptionDWConv')
    backbone = dict(type='mmkerv.RepLKNet', arch=REPLK, conv_cfg=conv_cfg, where=dict(names=['lkb_origin']))
    cfg = config(backbone, 64)
    torch.save({'state_dict': built(cfg).state_dict()}, tmp_path / 'a.pth')
    out = tmp_path / 'deploy.pth'
    result = fold_checkpoint(cfg, tmp_path / 'a.pth', out, shape=SIZE, upstream_deploy=True, split='dense')
    assert result.error < 1e-5 and result.dearer.keys() == set(result.report.replaced)
    assert all('lkb_origin' in name for name in result.dearer)
