"""Every advertised network of every library: its operators, initialisation, folding, keys and pickling."""

import copy
import pickle

import pytest
import torch

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope

from mmkerv.deploy.config import deploy_config
from mmkerv.models.upstream_backbones import find_library
from mmkerv.ops import CoCConv2d, switch_to_deploy
from tests.contract.backbones import HRNET, LIBRARIES, build, outputs
from tests.ops.contract import relative

COC = {'type': 'CoCConv'}

# library, config of the network, input sizes of its forward, convolutions that become operators
FEATURES = [(1, 32, 16, 16), (1, 64, 8, 8), (1, 128, 4, 4)]
HEAD = {'in_channels': 32, 'channels': 16, 'num_classes': 5, 'num_convs': 2}
NETWORKS = {
    'resnet50-mmdet': ('mmdet', {'type': 'ResNet', 'depth': 50}, [(1, 3, 64, 64)], 17),
    'resnet18-mmseg': ('mmseg', {'type': 'ResNet', 'depth': 18}, [(1, 3, 64, 64)], 17),
    'resnetv1c-mmseg': ('mmseg', {'type': 'ResNetV1c', 'depth': 50}, [(1, 3, 64, 64)], 19),
    'resnet18-mmpretrain': ('mmpretrain', {'type': 'ResNet', 'depth': 18}, [(1, 3, 64, 64)], 17),
    'hrnet-mmdet': ('mmdet', {'type': 'HRNet', 'extra': HRNET}, [(1, 3, 64, 64)], None),
    'fpn-mmdet': (
        'mmdet',
        {'type': 'FPN', 'in_channels': [32, 64, 128], 'out_channels': 16, 'num_outs': 5},
        FEATURES,
        3,
    ),
    'retina_head-mmdet': ('mmdet', {'type': 'RetinaHead', 'num_classes': 3, 'in_channels': 16}, [(1, 16, 8, 8)] * 5, 8),
    'fcn_head-mmseg': ('mmseg', {'type': 'FCNHead', **HEAD}, [(1, 32, 16, 16)], 3),
}


def operators(net):
    return [m for m in net.modules() if isinstance(m, CoCConv2d)]


@pytest.mark.parametrize('name', NETWORKS)
def test_one_line_of_config(name):
    """Same seed: equal outputs of the plain net and the net with the identity start; then perturb, fold, reload."""
    host, cfg, shapes, count = NETWORKS[name]
    plain, net = build(host, cfg), build(host, cfg, conv_cfg=COC)
    kernels = [m for m in plain.modules() if isinstance(m, torch.nn.Conv2d) and max(m.kernel_size) > 1]
    predictors = sum(isinstance(m, torch.nn.Conv2d) and max(m.kernel_size) > 1 for m in net.modules())
    assert len(operators(net)) == len(kernels) - predictors == (len(kernels) - predictors if count is None else count)
    for a, b in zip(outputs(plain, shapes), outputs(net, shapes), strict=True):
        assert relative(b, a) < 1e-5

    with torch.no_grad():
        for op in operators(net):
            op.super_layers[0].weight.normal_(std=0.3)
            assert (op.kernel() - op.weight).norm() > 0.3 * op.weight.norm()
    expected, folded = outputs(net, shapes), copy.deepcopy(net)
    assert len(switch_to_deploy(folded).replaced) == len(operators(net))
    wrong = build(host, cfg)
    wrong.load_state_dict({k: v for k, v in net.state_dict().items() if 'super_layers' not in k})
    plain.load_state_dict(folded.state_dict())
    differs = []
    for a, b, c in zip(expected, outputs(plain, shapes), outputs(wrong, shapes), strict=True):
        assert relative(b, a) < 1e-4
        differs.append(relative(c, a))
    assert max(differs) > 1e-2, 'a fold that drops the super layers must be detected'


@pytest.mark.parametrize('host', LIBRARIES)
def test_mmkerv_resnet_is_that_of_the_library(host):
    upstream = build(host, {'type': 'ResNet', 'depth': 18})
    net = build(host, {'type': 'mmkerv.ResNet', 'depth': 18}, conv_cfg=COC)
    assert isinstance(net, type(upstream)) and len(operators(net)) == 17
    assert set(upstream.state_dict()) == {k for k in net.state_dict() if 'super_layers' not in k}
    x = torch.randn(1, 3, 64, 64)
    assert relative(net(x)[-1], upstream(x)[-1]) < 1e-5
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x)[-1], net(x)[-1])
    assert len(net.switch_to_deploy().replaced) == 17
    assert set(net.state_dict()) == set(upstream.state_dict())


# The library's networks, and how many of their convolutions are larger than 1x1.
FAMILIES = {
    'resnetv1c-mmseg': ('mmseg', {'type': 'ResNetV1c', 'depth': 18}, 19),
    'resnetv1d-mmdet': ('mmdet', {'type': 'ResNetV1d', 'depth': 50}, 19),
    'resnetv1d-mmpretrain': ('mmpretrain', {'type': 'ResNetV1d', 'depth': 50}, 19),
    'hrnet-mmdet': ('mmdet', {'type': 'HRNet', 'extra': HRNET}, 40),
    'hrnet-mmseg': ('mmseg', {'type': 'HRNet', 'extra': HRNET}, 40),
    'hrnet-mmpretrain': ('mmpretrain', {'type': 'HRNet', 'extra': HRNET}, 40),
    'shufflenetv2-mmpretrain': ('mmpretrain', {'type': 'ShuffleNetV2', 'widen_factor': 0.5}, 20),
    'mobilenetv2-mmdet': ('mmdet', {'type': 'MobileNetV2', 'widen_factor': 0.5}, 18),
    'mobilenetv2-mmseg': ('mmseg', {'type': 'MobileNetV2', 'widen_factor': 0.5}, 18),
    'mobilenetv2-mmpretrain': ('mmpretrain', {'type': 'MobileNetV2', 'widen_factor': 0.5}, 18),
    'mobilenetv3-mmpretrain': ('mmpretrain', {'type': 'MobileNetV3', 'arch': 'small'}, 12),
    'mobilenetv3-mmseg': ('mmseg', {'type': 'MobileNetV3', 'arch': 'small'}, 12),
}


@pytest.mark.parametrize('name', FAMILIES)
def test_variants_are_those_of_the_library_with_operators(name):
    host, cfg, count = FAMILIES[name]
    ours = {**cfg, 'type': f'mmkerv.{cfg["type"]}'}
    upstream, net = build(host, cfg), build(host, ours, conv_cfg=COC)
    plain = [m for m in upstream.modules() if isinstance(m, torch.nn.Conv2d) and max(m.kernel_size) > 1]
    assert isinstance(net, type(upstream)) and len(operators(net)) == len(plain) == count
    assert not [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and max(m.kernel_size) > 1]
    weights = upstream.state_dict()
    assert set(weights) == {k for k in net.state_dict() if 'super_layers' not in k}
    for key, value in net.state_dict().items():
        assert 'super_layers' in key or torch.equal(value, weights[key]), f'{key} is initialised differently'
    shapes = [(2, 3, 64, 64)]
    for a, b in zip(outputs(upstream, shapes), outputs(net, shapes), strict=True):
        assert relative(b, a) < 1e-4
    folded = copy.deepcopy(net)
    assert len(folded.switch_to_deploy().replaced) == len(plain)
    upstream.load_state_dict(folded.state_dict())


def test_a_scope_without_the_family_falls_back():
    pytest.importorskip('mmpretrain')
    net = build('mmdet', {'type': 'mmkerv.ShuffleNetV2', 'widen_factor': 0.5}, conv_cfg=COC)
    assert type(net).__mro__[1].__module__.startswith('mmpretrain.')


@pytest.mark.parametrize(('family', 'library'), [('ResNet', 'mmdet'), ('ShuffleNetV2', 'mmpretrain')])
def test_rotated_detectors_have_mmdetections_backbones(family, library):
    for name in ('mmdet', 'mmpretrain'):
        pytest.importorskip(name)
    with DefaultScope.overwrite_default_scope('mmrotate'):
        assert find_library(family) == library
    deployed = deploy_config(Config(dict(default_scope='mmrotate', model=dict(type=f'mmkerv.{family}', conv_cfg=COC))))
    assert deployed.model.type == f'{library}.{family}'


@pytest.mark.parametrize('host', LIBRARIES)
def test_where_places_the_operators(host):
    net = build(host, {'type': 'mmkerv.ResNet', 'depth': 18}, conv_cfg=COC, where={'stem': False, 'stages': (3, 4)})
    assert all(name.startswith(('layer3', 'layer4')) for name, m in net.named_modules() if isinstance(m, CoCConv2d))
    assert len(operators(net)) == 8


def test_host_can_be_named_and_a_wrong_one_is_refused():
    pytest.importorskip('mmseg')
    net = build('mmdet', {'type': 'mmkerv.ResNet', 'depth': 18}, host='mmseg')
    assert type(net).__mro__[1].__module__.startswith('mmseg.') and operators(net) == []
    with pytest.raises(ValueError, match='host must be one of'):
        build('mmdet', {'type': 'mmkerv.ResNet', 'depth': 18}, host='mmrotate')


def test_frozen_stages_freeze_the_super_layers_too():
    net = build('mmdet', {'type': 'mmkerv.ResNet', 'depth': 18, 'frozen_stages': 1}, conv_cfg=COC)
    net.train()
    assert not any(p.requires_grad for p in [*net.conv1.parameters(), *net.layer1.parameters()])
    assert all(p.requires_grad for p in net.layer2[0].conv1.parameters())


def test_a_plain_detector_loads_into_the_identity_start():
    """The predictions agree to 1e-5, with operators in every stage of the detector."""
    pytest.importorskip('mmdet')
    from mmengine.config import Config

    init_default_scope('mmdet')
    cfg = Config.fromfile('configs/demo/retinanet_shapes.py').model
    cfg.data_preprocessor.mean, cfg.data_preprocessor.std = [0.0] * 3, [1.0] * 3
    torch.manual_seed(0)
    plain = MODELS.build(copy.deepcopy(cfg))
    plain.init_weights()
    with torch.no_grad():
        plain.bbox_head.retina_cls.bias.fill_(1.0)
    for part in ('backbone', 'neck', 'bbox_head'):
        cfg[part].conv_cfg = COC
    torch.manual_seed(1)
    net = MODELS.build(copy.deepcopy(cfg))
    net.load_state_dict(plain.state_dict())
    assert len(operators(net)) > 20
    from mmdet.testing import demo_mm_inputs

    batch = demo_mm_inputs(1, [[3, 96, 96]])
    results = []
    for model in (plain.eval(), net.eval()):
        data = model.data_preprocessor(copy.deepcopy(batch), False)
        with torch.no_grad():
            results.append(model(**data, mode='predict')[0].pred_instances)
    assert len(results[0]) > 10
    for key in ('scores', 'bboxes'):
        assert relative(results[1][key], results[0][key]) < 1e-5
    assert torch.equal(results[0].labels, results[1].labels)
