"""Continuous kernels in upstream's networks: sizes of maps, folding, and the config that builds the folded network."""

import copy

import pytest
import torch

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmkerv.deploy.config import deploy_config
from mmkerv.models import convert
from mmkerv.ops import CKConv2d, FoldedConv, switch_to_deploy
from tests.contract.test_networks import NETWORKS, build, outputs
from tests.ops.contract import relative

FORMS = pytest.mark.parametrize('separable', [False, True], ids=['dense', 'separable'])


def operators(net):
    return [m for m in net.modules() if isinstance(m, CKConv2d)]


def set_batch_statistics(net, shapes):
    """Give batch norms the statistics of an input, so that random kernels do not shrink the maps to nothing."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    outputs(net, shapes)
    net.eval()


@FORMS
@pytest.mark.parametrize('name', NETWORKS)
def test_one_line_of_config_folds_to_plain_modules(name, separable):
    host, cfg, shapes, count = NETWORKS[name]
    conv_cfg = {'type': 'CKConv', 'kernel_extent': 5, 'hidden': 4, 'separable': separable}
    plain, net = build(host, cfg), build(host, cfg, conv_cfg=conv_cfg)
    assert len(operators(net)) == count if count else operators(net)
    assert all(op.kernel_size in ((5, 5), (7, 7)) for op in operators(net))
    set_batch_statistics(net, shapes)
    expected = outputs(net, shapes)
    assert [y.shape for y in expected] == [y.shape for y in outputs(plain, shapes)]

    folded = copy.deepcopy(net)
    assert len(switch_to_deploy(folded).replaced) == len(operators(net))
    deployed = deploy_config(Config({'default_scope': host, 'model': {**cfg, 'conv_cfg': conv_cfg}}))
    rebuilt = MODELS.build(deployed.model)
    rebuilt.eval()
    assert not operators(rebuilt)
    rebuilt.load_state_dict(folded.state_dict())
    for a, b, c in zip(expected, outputs(folded, shapes), outputs(rebuilt, shapes), strict=True):
        assert relative(b, a) < 1e-4 and torch.equal(b, c)


@FORMS
def test_placement_survives_folding(separable):
    pytest.importorskip('mmpretrain')
    conv_cfg = {'type': 'mmkerv.CKConv', 'kernel_extent': 7, 'separable': separable, 'hidden': 8}
    cfg = {'type': 'mmkerv.ResNet', 'depth': 18, 'base_channels': 8, 'stem_channels': 8}
    cfg |= {'conv_cfg': conv_cfg, 'where': {'stages': (1,)}}
    net = build('mmpretrain', cfg)
    names = [name for name, m in net.named_modules() if isinstance(m, CKConv2d)]
    assert names == ['conv1', *(f'layer1.{block}.conv{conv}' for block in (0, 1) for conv in (1, 2))]
    shapes = [(2, 3, 64, 64)]
    set_batch_statistics(net, shapes)
    folded = copy.deepcopy(net)
    assert switch_to_deploy(folded).replaced == names
    kinds = [type(folded.get_submodule(name)) for name in names]
    assert kinds == [nn.Sequential if separable else nn.Conv2d] * 5
    rebuilt = MODELS.build(deploy_config(Config({'default_scope': 'mmpretrain', 'model': cfg})).model)
    rebuilt.load_state_dict(folded.state_dict())
    rebuilt.eval()
    assert relative(outputs(rebuilt, shapes)[0], outputs(net, shapes)[0]) < 1e-5


CONFIG = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmkerv.ResNet', depth=18, base_channels=8, stem_channels=8,
        conv_cfg=dict(type='mmkerv.CKConv', kernel_extent=7, separable=True), where=dict(stages=(1,)),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', in_channels=64, num_classes=3),
)
"""


def test_the_fold_tool_writes_depthwise_and_pointwise_convolutions(run, tmp_path):
    pytest.importorskip('mmpretrain')
    config, out = tmp_path / 'ck.py', tmp_path / 'deploy.pth'
    config.write_text(CONFIG)
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    torch.save({'meta': {}, 'state_dict': model.state_dict()}, tmp_path / 'ck.pth')
    log = run('tools/model_converters/reparameterize_model.py', config, tmp_path / 'ck.pth', out, '--shape', 64, 64)
    assert 'folded 5 operators' in log and 'kept 0' in log
    weights = torch.load(out, weights_only=True)['state_dict']
    assert weights['backbone.conv1.0.weight'].shape == (3, 1, 7, 7)
    assert weights['backbone.conv1.1.weight'].shape == (8, 3, 1, 1)
    deployed = MODELS.build(Config.fromfile(out.with_suffix('.py')).model).eval()
    deployed.load_state_dict(weights)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert relative(deployed(x, mode='tensor')[0], model.eval()(x, mode='tensor')[0]) < 1e-5


def test_the_converter_writes_a_checkpoint_of_the_config(run, data_root, tmp_path):
    pytest.importorskip('mmpretrain')
    source, out = data_root / 'ckconv_official' / 'mnist_perm_False_ckcnn_30.pt', tmp_path / 'ckcnn.pth'
    log = run('tools/model_converters/ckconv_to_mmkerv.py', source, out)
    assert 'mapped 52 parameters to 40, 0 unmapped' in log
    assert 'backbone.0.cconv1.Kernel.kernel_net.0.weight_g' in log
    init_default_scope('mmpretrain')
    cfg = Config.fromfile('configs/sequences/ckcnn_smnist.py')
    cfg.model.data_preprocessor = cfg.data_preprocessor
    MODELS.build(cfg.model).load_state_dict(torch.load(out, weights_only=True)['state_dict'])


def test_without_a_shape_of_its_own_the_deploy_config_is_plain():
    cfg = {'type': 'ResNet', 'depth': 18, 'conv_cfg': {'type': 'CKConv', 'omega_0': 5.0}}
    deployed = deploy_config(Config({'default_scope': 'mmpretrain', 'model': cfg}))
    assert deployed.model.to_dict() == {'type': 'ResNet', 'depth': 18, 'conv_cfg': None}


def test_convert_logs_that_kernels_are_new(monkeypatch):
    lines = []
    monkeypatch.setattr('mmkerv.models.placement.log', lines.append)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1))
    bias = model[0].bias
    convert(model, {'type': 'CKConv', 'kernel_extent': 7})
    assert isinstance(model[0], CKConv2d) and model[0].bias is bias and type(model[2]) is nn.Conv2d
    assert 'newly initialised' in lines[0] and '1 of 2' in lines[0]
    assert model(torch.randn(1, 3, 9, 9)).shape == (1, 8, 9, 9)


@FORMS
@pytest.mark.parametrize('extent', [None, 5, (7, 3)])
def test_folded_conv_is_what_folding_gives(separable, extent):
    options = {'separable': separable, 'kernel_extent': extent}
    from mmkerv.ops import CKConv

    init_default_scope('mmengine')
    operator = CKConv(4, 8, 3, 2, 1, 1, 2, **options)
    folded = FoldedConv(4, 8, 3, 2, 1, 1, 2, **options)
    folded.load_state_dict(operator.to_conv2d().state_dict())
    x = torch.randn(2, 4, 11, 9)
    assert relative(folded(x), operator(x)) < 1e-5
    assert (folded.in_channels, folded.out_channels, folded.stride) == (4, 8, (2, 2))
    assert folded.kernel_size == operator.kernel_size and folded.padding == operator.padding


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'kernel_extent': 4}, 'kernel_extent must be odd'),
        ({'separable': 1}, 'separable'),
        ({'omega_0': 3.0}, "no argument 'omega_0'"),
    ],
    ids=str,
)
def test_folded_conv_names_bad_arguments(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        FoldedConv(4, 8, 3, **arguments)
