"""`mmkerv.Converted`: networks without a `conv_cfg` of their own, such as mmpretrain's DenseNet."""

import copy
import pickle

import pytest
import torch
from torch import nn

pytest.importorskip('mmpretrain')

from mmcv.cnn import fuse_conv_bn
from mmengine.registry import MODELS, init_default_scope

from mmkerv.models.converted import apply_conv_cfg
from mmkerv.ops import CoCConv2d, KervConv2d, LowRankConv2d, switch_to_deploy
from tests.ops.contract import relative

# DenseNet-121's shape with fewer layers.
DENSENET = {'type': 'DenseNet', 'arch': {'growth_rate': 8, 'depths': [2, 3, 2], 'init_channels': 16}}
LINEAR = {'type': 'mmkerv.KervConv', 'kernel': 'linear'}
POLYNOMIAL = {'type': 'mmkerv.KervConv', 'degree': 3, 'balance': 2.0}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def build(cfg):
    torch.manual_seed(0)
    net = MODELS.build(copy.deepcopy(cfg))
    net.init_weights()
    net.eval()
    return net


def converted(conv_cfg=LINEAR, **rest):
    return build({'type': 'mmkerv.Converted', 'backbone': DENSENET, 'conv_cfg': conv_cfg, **rest})


def operators(net):
    return [name for name, m in net.named_modules() if isinstance(m, (KervConv2d, CoCConv2d))]


def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ('where', 'expected'),
    [
        ({'stages': ()}, ['stem.0']),
        ({'stem': False, 'stages': (2,), 'kernel_sizes': '>1'}, [f'stages.1.block.{i}.conv2' for i in range(3)]),
        ({'stem': False, 'names': 'transitions', 'kernel_sizes': 'all'}, ['transitions.0.conv', 'transitions.1.conv']),
    ],
    ids=str,
)
def test_where_selects_the_stem_and_stages_of_densenet(where, expected):
    plain, net = build(DENSENET), converted(where=where)
    assert type(net) is type(plain) and operators(net) == expected
    assert set(net.state_dict()) == set(plain.state_dict())
    assert relative(net(images())[-1], plain(images())[-1]) < 1e-5


def test_1x1_convolutions_become_kervolutions():
    net = converted(POLYNOMIAL, where={'kernel_sizes': 'all', 'names': r'block\.0\.conv1'})
    assert [net.get_submodule(n).kernel_size for n in operators(net)] == [(1, 1)] * 3
    feature = net(images())[-1]
    assert bool(feature.isfinite().all())
    assert relative(feature, build(DENSENET)(images())[-1]) > 1e-3


def test_a_polynomial_stem_trains_pickles_and_is_not_fused():
    net = converted(POLYNOMIAL, where={'stages': ()})
    expected = net(images())[-1]
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), fuse_conv_bn(copy.deepcopy(net))):
        assert relative(other(images())[-1], expected) < 1e-4
    net.train()
    net(images())[-1].square().mean().backward()
    assert float(net.stem[0].weight.grad.abs().max()) > 0


def test_without_an_operator_the_network_stays_plain():
    net = converted(None)
    assert operators(net) == [] and type(net.stem[0]) is nn.Conv2d


def test_mobilenet_converts_to_coc_and_folds():
    net = build(
        {
            'type': 'mmkerv.Converted',
            'backbone': {'type': 'MobileNetV2', 'widen_factor': 0.25},
            'conv_cfg': {'type': 'CoCConv'},
            'where': {'depthwise': False, 'names': '^conv1'},
        }
    )
    assert operators(net) == ['conv1.conv']
    assert switch_to_deploy(net).replaced == ['conv1.conv']


@pytest.mark.parametrize(
    ('cfg', 'error', 'message'),
    [
        ({'backbone': 'DenseNet'}, TypeError, "backbone must be a dict with a 'type'"),
        ({'backbone': {'arch': '121'}}, TypeError, "backbone must be a dict with a 'type'"),
        ({'backbone': {'type': 'DenseNett'}}, KeyError, 'DenseNett'),
        (
            {'backbone': DENSENET, 'conv_cfg': LINEAR, 'where': {'stages': (9,), 'stem': False}},
            ValueError,
            'selects none',
        ),
        ({'backbone': DENSENET, 'where': {'stage': (1,)}}, TypeError, "did you mean 'stages'"),
        ({'backbone': DENSENET, 'conv_cgf': LINEAR}, TypeError, "no argument 'conv_cgf'; did you mean 'conv_cfg'"),
        ({'backbone': DENSENET, 'depth': 50, 'style': 'pytorch'}, TypeError, "'depth', 'style': if .*_delete_=True"),
        ({'backbone': DENSENET, 'model': DENSENET}, TypeError, 'got both'),
        ({'conv_cfg': LINEAR}, TypeError, "backbone must be a dict with a 'type'.*got None"),
    ],
)
def test_bad_input_is_refused(cfg, error, message):
    with pytest.raises(error, match=message):
        MODELS.build({'type': 'mmkerv.Converted', **cfg})


def test_a_whole_model_is_converted():
    model = {'type': 'ImageClassifier', 'backbone': DENSENET, 'neck': {'type': 'GlobalAveragePooling'}}
    net = build({'type': 'mmkerv.Converted', 'model': model, 'conv_cfg': LINEAR, 'where': {'stages': ()}})
    assert operators(net) == ['backbone.stem.0'] and model['backbone'] is DENSENET


@pytest.mark.parametrize(
    'own', [{'type': 'ClsDataPreprocessor', 'mean': [3.0], 'std': [1.0]}, None], ids=['own', 'none']
)
def test_a_whole_model_keeps_its_own_preprocessor(own):
    """As the runner does, which gives the config's to a model that has none."""
    model = {'type': 'ImageClassifier', 'backbone': DENSENET}
    if own:
        model['data_preprocessor'] = own
    injected = {'type': 'ClsDataPreprocessor', 'mean': [5.0], 'std': [1.0]}
    outer = {'type': 'mmkerv.Converted', 'model': model, 'conv_cfg': LINEAR, 'data_preprocessor': injected}
    assert build(outer).data_preprocessor.mean.item() == (3 if own else 5)


KERV = {'type': 'mmkerv.KervConv', 'kernel': 'linear'}


def converted_part(cfg, **where):
    return {'type': 'mmkerv.Converted', 'backbone': cfg, 'conv_cfg': KERV, 'where': {'kernel_sizes': 'all', **where}}


@pytest.mark.parametrize(
    ('config', 'parts'),
    [
        ('retinanet/retinanet_r18_fpn_1x_coco.py', ['neck', 'bbox_head']),
        ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', ['rpn_head', 'neck']),
        ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', ['rpn_head', 'roi_head', 'roi_head.mask_head']),
        ('rpn/rpn_r50_fpn_1x_coco.py', ['rpn_head']),
        ('solo/solo_r50_fpn_1x_coco.py', ['mask_head']),
    ],
)
def test_heads_of_detectors_are_converted(config, parts):
    pytest.importorskip('mmdet.models')
    from mmengine.hub import get_config

    model = get_config(f'mmdet::{config}').model
    model.backbone.init_cfg = None
    init_default_scope('mmdet')
    plain = MODELS.build(copy.deepcopy(model))
    for part in parts:
        changed = copy.deepcopy(model)
        *outer, name = part.split('.')
        holder = changed
        for key in outer:
            holder = holder[key]
        if part == 'roi_head':
            holder[name] = converted_part(holder[name], names='mask_head')
        else:
            holder[name] = converted_part(holder[name])
        net = MODELS.build(changed)
        assert set(net.state_dict()) == set(plain.state_dict())
        # RPN calls its head bbox_head once it is built.
        place = part if hasattr(net, outer[0] if outer else part) else 'bbox_head'
        assert operators(net) and all(name.startswith(place) for name in operators(net))
        expected, found = plain.get_submodule(place), net.get_submodule(place)
        assert getattr(found, 'test_cfg', None) == getattr(expected, 'test_cfg', None)


def test_heads_and_backbones_of_segmentors_are_converted():
    pytest.importorskip('mmseg.models')
    from mmengine.hub import get_config

    path = 'fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'
    try:
        model = get_config(f'mmseg::{path}').model
    except Exception as error:
        pytest.skip(f'no upstream config: {error}')
    init_default_scope('mmseg')
    model.backbone.depth, model.backbone.norm_cfg = 18, {'type': 'BN'}
    for key in ('backbone', 'decode_head', 'auxiliary_head'):
        model[key] = converted_part(model[key], kernel_sizes=(3,))
    # `pretrained` is handed on to the backbone.
    model.pretrained = 'torchvision://resnet18'
    net = MODELS.build(model)
    parts = {name.split('.')[0] for name in operators(net)}
    assert parts == {'backbone', 'decode_head', 'auxiliary_head'}
    assert net.backbone.init_cfg['checkpoint'] == 'torchvision://resnet18'


def test_a_config_puts_an_operator_into_the_whole_model_of_its_base(tmp_path):
    from mmengine.config import Config

    from mmkerv.deploy.config import deploy_config
    from mmkerv.engine import load_config

    model = {'type': 'ImageClassifier', 'backbone': DENSENET, 'neck': {'type': 'GlobalAveragePooling'}}
    head = {'type': 'LinearClsHead', 'num_classes': 3, 'in_channels': 52}
    (tmp_path / 'base.py').write_text(f"default_scope = 'mmpretrain'\nmodel = { ({**model, 'head': head})!r}\n")
    (tmp_path / 'whole.py').write_text(
        "_base_ = './base.py'\nmodel = dict(_delete_=True, type='mmkerv.Converted', model=_base_.model, "
        "conv_cfg=dict(type='mmkerv.CoCConv'), where=dict(names=['block']))\n"
    )
    cfg = load_config(str(tmp_path / 'whole.py'))
    net = build(cfg.model)
    assert len(operators(net)) == 7 and all(name.startswith('backbone.stages') for name in operators(net))
    assert deploy_config(cfg).model == Config.fromfile(tmp_path / 'base.py').model


def test_only_weights_that_will_not_be_initialised_are_decomposed():
    """A network under construction gets its weights later; a part that is built with weights says so."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 6, 3), nn.Sequential(nn.Conv2d(6, 4, 3)))
    model[1]._is_init = True
    weights = [conv.weight.clone() for conv in (model[0], model[1][0])]
    apply_conv_cfg(model, {'type': 'LowRankConv', 'rank': (8, 8)}, None)
    first, second = model[0], model[1][0]
    assert type(first) is type(second) is LowRankConv2d
    assert relative(second.kernel(), weights[1]) < 1e-5 and relative(first.kernel(), weights[0]) > 0.1
