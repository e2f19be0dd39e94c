"""Errors of constructors that mmengine calls are described by the place of the part in the config."""

import copy

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, DefaultScope

from mmkerv.cli import common
from mmkerv.engine.config.build_errors import described
from tests.engine.small_networks import NETWORKS


def description(cfg: Config, registry=MODELS, key: str = 'model') -> str | None:
    """Build a part of a config as a runner does, and describe the error."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        try:
            registry.build(copy.deepcopy(cfg.get(key)))
        except Exception as error:
            return described(error)
    raise AssertionError('no error')


def network(name: str, library: str) -> Config:
    pytest.importorskip(library)
    return copy.deepcopy(NETWORKS[name]())


def test_an_unknown_key_deep_in_a_network_is_named():
    cfg = network('retinanet', 'mmdet')
    cfg.model.bbox_head.anchor_generator = dict(cfg.model.bbox_head.anchor_generator, octave_bas_scale=4)
    assert description(cfg) == (
        'model.bbox_head.anchor_generator.octave_bas_scale: AnchorGenerator has no argument '
        "'octave_bas_scale'; did you mean 'octave_base_scale'? Change the key in the config"
    )


def test_an_unknown_type_deep_in_a_network_is_named():
    cfg = network('retinanet', 'mmdet')
    cfg.model.bbox_head.loss_cls = dict(type='FocalLos')
    text = description(cfg)
    assert text.startswith(
        "model.bbox_head.loss_cls.type: 'FocalLos' is not registered as a model; did you mean 'Focal"
    )
    assert text.endswith('by --cfg-options model.bbox_head.loss_cls.type=NAME')


def test_an_unknown_key_of_a_hook_is_named():
    cfg = Config(dict(default_scope='mmengine', hook=dict(type='LoggerHook', intervall=3)))
    assert description(cfg, HOOKS, 'hook') == (
        "hook.intervall: LoggerHook has no argument 'intervall'; did you mean 'interval'? Change the key in the config"
    )


@pytest.mark.parametrize('operator', ['CoCConv', 'DCLSConv'])
def test_an_even_kernel_is_named_with_the_config_that_leaves_it_plain(operator):
    cfg = network('segmentor', 'mmseg')
    cfg.model.decode_head.kernel_size = 2
    cfg.model.decode_head.conv_cfg = dict(type=f'mmkerv.{operator}')
    text = description(cfg)
    assert text.startswith('model.decode_head: kernel_size must be odd ') and ', got ' in text
    assert "decode_head=dict(_delete_=True, type='mmkerv.Converted', model=dict(type='FCNHead', ...)" in text
    where = dict(kernel_sizes='>1')
    assert text.endswith(f"conv_cfg=dict(type='mmkerv.{operator}'), where=dict(kernel_sizes='>1'))")
    cfg.model.decode_head.conv_cfg = cfg.model.backbone.conv_cfg = None
    with DefaultScope.overwrite_default_scope('mmseg'):
        MODELS.build(dict(type='mmkerv.Converted', model=cfg.model, conv_cfg=dict(type=operator), where=where))


def test_other_refusals_of_an_operator_get_their_place():
    cfg = network('classifier', 'mmpretrain')
    cfg.model.backbone.conv_cfg = dict(type='PConv')
    text = description(cfg)
    assert text.startswith('model.backbone: ') and 'channels' in text


def test_an_argument_that_the_network_gives_as_well_is_named():
    cfg = network('retinanet', 'mmdet')
    cfg.model.neck.conv_cfg = dict(type='CoCConv', groups=2)
    assert description(cfg).startswith(
        'model.neck.conv_cfg.groups: FPN gives groups by itself, so conv_cfg cannot have'
    )


def test_a_defect_keeps_its_traceback():
    @MODELS.register_module(force=True)
    class BrokenForThisTest:
        def __init__(self, width):
            dict().wdith  # noqa: B018

    try:
        cfg = Config(dict(default_scope='mmengine', model=dict(type='BrokenForThisTest', width=3)))
        assert description(cfg) is None
        cfg.model.pop('width')
        assert description(cfg) == (
            "model: BrokenForThisTest needs 'width', which the config does not have; add it there"
        )
    finally:
        MODELS.module_dict.pop('BrokenForThisTest')
    assert described(TypeError("f() got an unexpected keyword argument 'a'")) is None


def test_tools_print_it_as_one_line(capsys):
    def main(argv):
        with DefaultScope.overwrite_default_scope('mmengine'):
            cfg = Config(dict(hook=dict(type='LoggerHook', intervall=3)))
            HOOKS.build(cfg.hook)

    with pytest.raises(SystemExit) as caught:
        common.run(main)
    assert str(caught.value).startswith("error: hook.intervall: LoggerHook has no argument 'intervall'; did you mean")
