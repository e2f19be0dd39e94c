"""Every way a config may name an operator, in every scope, and the package configs."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmengine')

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE, _get_external_cfg_base_path
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.utils import get_installed_path

import mmkerv
from mmkerv import ops
from mmkerv.ops import CKConv1d, CKConv2d, CoCConv, CoCConv2d, KervConv, KervConv1d, KervConv2d, KervConv3d
from tests.ops.catalogue import CATALOGUE

HOSTS = ['mmdet', 'mmseg', 'mmpretrain']


@pytest.mark.parametrize(
    'name',
    [
        'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
        'mmseg::fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py',
        'mmpretrain::resnet/resnet50_8xb32_in1k.py',
        'mmpretrain::_base_/models/resnet50.py',
    ],
)
def test_configs_of_libraries_are_found_without_their_metafiles(name, monkeypatch):
    library, _, path = name.partition('::')
    pytest.importorskip(library)
    package = get_installed_path(MODULE2PACKAGE[library])
    theirs = _get_external_cfg_base_path(package, path)

    def refuse(file):
        raise AssertionError(f'{file} was read')

    monkeypatch.setattr('mmengine.config.utils.load', refuse)
    found, scope = Config._get_cfg_path(name, 'mine.py')
    assert scope == library and Path(found).samefile(theirs)


@pytest.mark.parametrize('host', HOSTS)
@pytest.mark.parametrize('kind', ['CoCConv', 'mmkerv.CoCConv', CoCConv], ids=str)
def test_conv_cfg_in_every_scope(host, kind):
    pytest.importorskip(host)
    from mmcv.cnn import ConvModule, build_conv_layer

    init_default_scope(host)
    conv = build_conv_layer({'type': kind, 'association': 3}, 3, 8, 3, padding=1)
    assert type(conv) is CoCConv2d and conv.options.association == 3
    assert type(build_conv_layer({'type': kind}, 8, 8, 1)) is torch.nn.Conv2d
    module = ConvModule(3, 8, 3, padding=1, conv_cfg={'type': kind}, norm_cfg={'type': 'BN'})
    assert type(module.conv) is CoCConv2d and module.conv.bias is None
    assert module(torch.randn(2, 3, 5, 5)).shape == (2, 8, 5, 5)


@pytest.mark.parametrize('host', HOSTS)
@pytest.mark.parametrize('kind', ['KervConv', 'mmkerv.KervConv', KervConv, KervConv2d], ids=str)
def test_kervolution_in_every_scope(host, kind):
    pytest.importorskip(host)
    from mmcv.cnn import ConvModule, build_conv_layer

    init_default_scope(host)
    cfg = {'type': kind, 'kernel': 'gaussian', 'gamma': 0.5, 'learnable': True}
    for size in (1, 3):
        conv = build_conv_layer(cfg, 4, 8, size, groups=2)
        assert type(conv) is KervConv2d and conv.kernel_name == 'gaussian' and conv.gamma.item() == 0.5
    module = ConvModule(3, 8, 3, padding=1, conv_cfg={'type': kind}, norm_cfg={'type': 'BN'})
    assert type(module.conv) is KervConv2d and module.conv.bias is None and module.conv.degree == 3
    assert module(torch.randn(2, 3, 5, 5)).shape == (2, 8, 5, 5)


@pytest.mark.parametrize(
    ('kind', 'layer', 'shape'), [('KervConv1d', KervConv1d, (9,)), ('KervConv3d', KervConv3d, (3,) * 3)]
)
def test_kervolution_of_sequences_and_volumes(kind, layer, shape):
    pytest.importorskip('mmcv')
    from mmcv.cnn import build_conv_layer

    conv = build_conv_layer({'type': f'mmkerv.{layer.__name__}', 'kernel': 'l2'}, 3, 4, 3, padding=1)
    assert type(conv) is layer and conv(torch.randn(1, 3, *shape)).shape == (1, 4, *shape)


@pytest.mark.parametrize('host', HOSTS)
def test_no_import_is_needed_with_the_scope_in_the_type(host):
    """In a fresh interpreter, as upstream's own tools are."""
    pytest.importorskip(host)
    code = f"""
        import sys
        from mmengine.registry import init_default_scope
        init_default_scope({host!r})
        from mmcv.cnn import build_conv_layer
        assert 'mmkerv' not in sys.modules
        print(type(build_conv_layer(dict(type='mmkerv.CoCConv'), 3, 8, 3)).__name__)
    """
    run = subprocess.run([sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True)
    assert run.stdout.strip().endswith('CoCConv2d'), run.stderr


def test_import_imports_neither_torch_nor_the_libraries():
    large = ['torch', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'mmkerv.models']
    code = f'import sys, mmkerv; print([m for m in {large} if m in sys.modules])'
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert run.stdout.strip() == '[]', run.stdout + run.stderr


def test_package_configs_resolve(tmp_path):
    pytest.importorskip('mmdet')
    (tmp_path / 'mine.py').write_text("_base_ = 'mmkerv::retinanet_r50_coc.py'\n")
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert "'_scope_': 'mmkerv'" not in str(cfg._cfg_dict), "the host's transforms and models are not in our scope"
    assert cfg.model.backbone.conv_cfg.type == 'mmkerv.CoCConv' and cfg.model.type == 'RetinaNet'


def test_mmseg_configs_resolve(tmp_path):
    pytest.importorskip('mmseg')
    (tmp_path / 'mine.py').write_text("_base_ = 'mmseg::fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py'\n")
    assert Config.fromfile(tmp_path / 'mine.py').model.type == 'EncoderDecoder'


def test_a_config_that_is_not_there_is_named(tmp_path):
    (tmp_path / 'mine.py').write_text("_base_ = 'mmkerv::retinanet.py'\n")
    with pytest.raises(FileNotFoundError, match=r"mmkerv has no config 'retinanet\.py'"):
        Config.fromfile(tmp_path / 'mine.py')


def test_an_unknown_package_is_still_refused(tmp_path):
    (tmp_path / 'mine.py').write_text("_base_ = 'mmnothing::a/b.py'\n")
    with pytest.raises(AssertionError, match='mmnothing'):
        Config.fromfile(tmp_path / 'mine.py')


def test_backbone_without_a_scope_is_an_error():
    instances = DefaultScope._instance_dict.copy()
    DefaultScope._instance_dict.clear()
    try:
        with pytest.raises(ValueError, match='default_scope'):
            MODELS.build({'type': 'mmkerv.ResNet', 'depth': 18})
    finally:
        DefaultScope._instance_dict.update(instances)


# Names of an operator with other defaults.
SETTINGS_OF = {'FlexConv': 'CKConv'}


@pytest.mark.parametrize('name', mmkerv.registry.OPERATORS)
def test_operators_are_registered_in_the_root_and_in_the_scope(name):
    assert MODELS.get(name) is mmkerv.registry.MODELS.get(name)
    torch.manual_seed(0)
    # The sequence layer is causal and pads by itself.
    kind = CATALOGUE[SETTINGS_OF.get(name, name)].channels
    channels = {'any': (4, 8, 3), 'same': (4, 4, 3), 'depthwise': (8, 8, 3)}[kind]
    settings = {'groups': 8} if kind == 'depthwise' else {}
    settings |= {} if name == 'CKConv1d' else {'padding': 1}
    built = MODELS.get(name)(*channels, **settings)
    assert type(built) is type(getattr(mmkerv.ops, name)(*channels, **settings))


@pytest.mark.parametrize('host', HOSTS)
@pytest.mark.parametrize('prefix', ['', 'mmkerv.'])
def test_continuous_kernels_in_every_scope(host, prefix):
    pytest.importorskip(host)
    from mmcv.cnn import ConvModule, build_conv_layer

    init_default_scope(host)
    conv_cfg = {'type': f'{prefix}CKConv', 'kernel_extent': 7, 'separable': True}
    module = ConvModule(3, 8, 3, padding=1, conv_cfg=conv_cfg, norm_cfg={'type': 'BN'})
    assert type(module.conv) is CKConv2d and module.conv.kernel_size == (7, 7)
    assert module(torch.randn(2, 3, 9, 9)).shape == (2, 8, 9, 9)
    assert type(build_conv_layer(conv_cfg, 8, 8, 1)) is torch.nn.Conv2d
    assert type(build_conv_layer({'type': f'{prefix}CKConv1d'}, 3, 8, 50)) is CKConv1d


@pytest.mark.parametrize('host', HOSTS)
@pytest.mark.parametrize('prefix', ['', 'mmkerv.'])
@pytest.mark.parametrize('name', ['DepthwiseSeparableConv', 'SpatiallySeparableConv'])
def test_separable_convolutions_in_every_scope(host, prefix, name):
    pytest.importorskip(host)
    from mmcv.cnn import ConvModule, build_conv_layer

    init_default_scope(host)
    conv_cfg = {'type': f'{prefix}{name}'}
    module = ConvModule(3, 8, 3, padding=1, conv_cfg=conv_cfg, norm_cfg={'type': 'BN'})
    assert type(module.conv) is getattr(ops, f'{name}2d') and module.conv.bias is None
    assert module(torch.randn(2, 3, 9, 9)).shape == (2, 8, 9, 9)
    assert type(build_conv_layer(conv_cfg, 8, 8, 1)) is torch.nn.Conv2d


def test_public_names():
    """A name that goes or comes is a decision, not an accident."""
    assert list(mmkerv.registry.OPERATORS) == sorted([*CATALOGUE, *SETTINGS_OF])
    operators = {*CATALOGUE, *SETTINGS_OF, *(operator.layer.__name__ for operator in CATALOGUE.values()), 'FoldedConv'}
    assert {name for name in ops.__all__ if 'Conv' in name} == operators
    assert all(hasattr(ops, name) for name in ops.__all__)
