"""An operator in the whole model of a config, and the operators that a config has."""

import pytest

pytest.importorskip('mmcv')

from mmengine.config import Config
from torch import nn

from mmkerv.engine.config.operator_spec import parse_operator
from mmkerv.engine.config.place_operator import place_operator
from mmkerv.engine.config.write import by_name
from mmkerv.errors import ConfigError
from mmkerv.models.placed_operators import placed_operators, placed_operators_of_text
from mmkerv.ops import KervConv

CONVERTED = dict(type='mmkerv.Converted', model=dict(type='A'), conv_cfg=dict(type='mmkerv.CoCConv', association=3))


def placed(model, spec, where=()):
    return place_operator(Config(dict(model=model)), parse_operator(spec, where)).model


def test_the_whole_model_is_wrapped():
    inner = dict(type='RetinaNet', backbone=dict(type='ResNet', conv_cfg=None))
    assert placed(inner, 'coc') == dict(type='mmkerv.Converted', model=inner, conv_cfg=dict(type='mmkerv.CoCConv'))
    assert placed(inner, 'kerv:degree=2', ['stages=()']) == dict(
        type='mmkerv.Converted',
        model=inner,
        conv_cfg=dict(type='mmkerv.KervConv', degree=2),
        where=dict(stages=()),
    )
    assert placed(inner, 'plain') == inner


@pytest.mark.parametrize(
    ('model', 'words'),
    [
        (CONVERTED, r'model.conv_cfg=CoCConv\(association=3\), and'),
        (dict(heads=[dict(conv_cfg=None), dict(conv_cfg=dict(type=KervConv))]), r'model.heads.1.conv_cfg=KervConv\(\)'),
        (
            dict(a=dict(conv_cfg=dict(type='PConv')), b=dict(shape_conv_cfg=dict(type='mmkerv.PConv'))),
            r'model.a.conv_cfg=PConv\(\) and 1 more',
        ),
        (None, 'has no model'),
    ],
    ids=['converted', 'class', 'two', 'none'],
)
def test_a_second_operator_is_refused(model, words):
    with pytest.raises(ConfigError, match=words) as caught:
        placed(model, 'coc')
    assert str(caught.value).startswith("--operator 'coc': the config ")


def test_other_convolutions_and_plain_variants_are_no_operators():
    model = dict(
        backbone=dict(type='mmkerv.ResNet', conv_cfg=dict(type='ConvWS')),
        neck=dict(type='mmkerv.Converted', model=dict(type='FPN'), conv_cfg=None),
        head=dict(conv_cfg=dict(type='mmkerv.FoldedConv', kernel_extent=7)),
    )
    assert placed_operators(model) == {}
    assert placed(model, 'coc').model == model


@pytest.mark.parametrize(
    'model',
    [
        dict(CONVERTED, where=dict(stages=(2, 3), names=['a', r'\.b$'])),
        dict(backbone=dict(conv_cfg=dict(type=KervConv, kernel='gaussian', gamma=1e-3, act=nn.ReLU, top=float('inf')))),
        dict(parts=[dict(conv_cfg=dict(type='LowRankConv', rank=(8, -4)))], **{'a b': dict(conv_cfg=None)}),
    ],
    ids=['whole', 'class', 'list'],
)
def test_a_dumped_config_has_the_same_operators(model):
    cfg = by_name(Config(dict(model=model, lr=0.1)))
    assert placed_operators(cfg.model) and placed_operators_of_text(cfg.pretty_text) == placed_operators(cfg.model)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('', None),
        ('model = (', None),
        ('model = 3', None),
        ('model = dict()', {}),
        ("model = __import__('os').mkdir('made')", None),
        ("model = dict(a=__import__('os').mkdir('made'), **x)", {}),
        ('model = ' + '-' * 20000 + '1', None),
        ('model = ' + '[' * 150 + ']' * 150, None),
        ('\0', None),
    ],
    ids=['empty', 'syntax', 'number', 'plain', 'call', 'call inside', 'deep', 'brackets', 'null'],
)
def test_a_text_is_not_run(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert placed_operators_of_text(text) == expected
    assert not list(tmp_path.iterdir())
