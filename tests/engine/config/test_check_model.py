"""Misspelt types and keys of a network are named with their place, all at once, before anything is built."""

import copy

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmkerv.engine.config.check_model import accepted, check_model, is_slip, model_faults
from mmkerv.errors import ConfigError
from tests.engine.small_networks import NETWORKS

LIBRARY = {'retinanet': 'mmdet', 'mask_rcnn': 'mmdet', 'segmentor': 'mmseg', 'classifier': 'mmpretrain'}


def network(name: str) -> Config:
    pytest.importorskip(LIBRARY[name])
    return copy.deepcopy(NETWORKS[name]())


@pytest.mark.parametrize('name', NETWORKS)
def test_a_correct_network_has_no_fault(name):
    assert not model_faults(network(name))


@pytest.mark.parametrize(
    'name, part, kind',
    [
        ('retinanet', 'backbone', 'ResNet'),
        ('retinanet', 'neck', 'FPN'),
        ('retinanet', 'bbox_head', 'RetinaHead'),
        ('mask_rcnn', 'roi_head.mask_head', 'FCNMaskHead'),
        ('segmentor', 'decode_head', 'FCNHead'),
        ('segmentor', 'auxiliary_head.0', 'FCNHead'),
        ('classifier', 'backbone', 'ResNet'),
    ],
)
def test_a_misspelt_key_is_named_with_its_place(name, part, kind):
    cfg = network(name)
    node = cfg.model
    for key in part.split('.'):
        node = node[int(key) if key.isdigit() else key]
    node['conv_cgf'] = dict(type='CoCConv')
    text = f"model.{part}.conv_cgf: {kind} has no argument 'conv_cgf'; did you mean 'conv_cfg'? Change the key"
    with pytest.raises(ConfigError) as caught:
        check_model(cfg)
    assert str(caught.value).startswith(text)


def test_all_faults_are_named_at_once():
    cfg = network('retinanet')
    cfg.model.backbone.dept = cfg.model.backbone.pop('depth')
    cfg.model.bbox_head.num_clases = 3
    cfg.model.neck.type = 'FNP'
    places = ('model.backbone.dept:', 'model.neck.type:', 'model.bbox_head.num_clases:')
    assert [fault.split()[0] for fault in model_faults(cfg)] == list(places)
    with pytest.raises(ConfigError) as caught:
        check_model(cfg)
    assert '\n' not in str(caught.value) and all(place in str(caught.value) for place in places)


@pytest.mark.parametrize(
    'kind, meant', [('mmkerv.ResNett', 'mmkerv.ResNet'), ('Resnet', 'ResNet'), ('mmdet.HRnet', 'mmdet.HRNet')]
)
def test_a_misspelt_type_is_named(kind, meant):
    cfg = network('retinanet')
    cfg.model.backbone.type = kind
    (fault,) = model_faults(cfg)
    assert fault.startswith(f"model.backbone.type: '{kind}' is not registered; did you mean '{meant}'?")


def test_a_config_without_a_scope_is_told_so(monkeypatch):
    cfg = network('retinanet')
    monkeypatch.setattr(DefaultScope, '_instance_dict', type(DefaultScope._instance_dict)())
    cfg.pop('default_scope')
    assert {fault.partition(', and ')[2] for fault in model_faults(cfg)} == {
        "the config has no default_scope, such as 'mmdet', to look it up in; add that"
    }


def test_backbones_of_mmkerv_have_the_arguments_of_upstream_and_their_own():
    cfg = network('retinanet')
    cfg.model.backbone.update(type='mmkerv.ResNet', where=dict(stages=(2,)), host='mmdet')
    assert not model_faults(cfg)
    cfg.model.backbone.hots = cfg.model.backbone.pop('host')
    (fault,) = model_faults(cfg)
    assert fault.startswith("model.backbone.hots: ResNet has no argument 'hots'; did you mean 'host'?")


def test_keys_that_a_class_may_pass_on_are_not_refused():
    class Outer:
        def __init__(self, width, **kwargs):
            self.part = kwargs

    class Inner(Outer):
        def __init__(self, depth, **kwargs):
            super().__init__(**kwargs)

    class Closed(Outer):
        def __init__(self, height=1):
            super().__init__(height)

    assert accepted(Inner, {}) == ({'depth', 'width'}, True)
    assert accepted(Closed, {}) == ({'height'}, False)
    converted = dict(type='mmkerv.Converted', model=dict(type='mmkerv.CKCNN'), train_cfg={}, num_classes=3)
    assert not model_faults(Config(dict(default_scope='mmengine', model=converted)))
    converted['modle'] = converted.pop('model')
    (fault,) = model_faults(Config(dict(default_scope='mmengine', model=converted)))
    assert "did you mean 'model'?" in fault


@pytest.mark.parametrize('key, refused', [('in_index', False), ('out_channels', False), ('in_chanels', True)])
def test_a_class_that_drops_arguments_may_be_given_others(key, refused):
    """mmseg's MaskFormerHead drops in_index, which its configs give."""

    @MODELS.register_module(force=True)
    class DropsForThisTest:
        def __init__(self, in_channels, ignore_index=255, **kwargs):
            pass

    try:
        model = dict(type='DropsForThisTest', **{key: 3})
        assert bool(model_faults(Config(dict(default_scope='mmengine', model=model)))) == refused
    finally:
        MODELS.module_dict.pop('DropsForThisTest')


def test_a_part_that_a_library_registers_elsewhere_is_found():
    pytest.importorskip('mmdet.models.detectors.clrnet_detector')
    part = dict(type='LineDetDataProcessor')
    assert not model_faults(Config(dict(default_scope='mmdet', model=dict(type='CLRNet', data_preprocessor=part))))


@pytest.mark.parametrize(
    'typed, name, expected',
    [
        ('conv_cgf', 'conv_cfg', True),
        ('num_clases', 'num_classes', True),
        ('depht', 'depth', True),
        ('aa', 'a', True),
        ('a', 'b', True),
        ('out_channels', 'in_channels', False),
        ('in_index', 'ignore_index', False),
        ('ab', 'cd', False),
    ],
)
def test_a_slip_is_one_letter_or_a_swap(typed, name, expected):
    assert is_slip(typed, name) is is_slip(name, typed) is expected


def test_parts_inside_a_converted_model_are_checked():
    cfg = network('retinanet')
    inner = copy.deepcopy(cfg.model)
    inner.neck.strat_level = 1
    cfg.model = dict(type='mmkerv.Converted', model=inner, conv_cfg=dict(type='CoCConv'))
    (fault,) = model_faults(cfg)
    assert fault.startswith(
        "model.model.neck.strat_level: FPN has no argument 'strat_level'; did you mean 'start_level'?"
    )


def test_nothing_is_changed():
    def scope():
        return getattr(DefaultScope.get_current_instance(), 'scope_name', None)

    cfg, before = network('segmentor'), scope()
    text = cfg.pretty_text
    check_model(cfg)
    assert cfg.pretty_text == text and scope() == before
