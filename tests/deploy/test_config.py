import copy
from collections import OrderedDict

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmkerv.deploy.config import deploy_config
from mmkerv.engine import CheckpointMatchHook
from mmkerv.errors import ArgumentError
from mmkerv.models import ResNet
from mmkerv.ops import CoCConv, CoCConv2d

# Ways to name the operator in a config.
KINDS = pytest.mark.parametrize(
    'kind',
    ['CoCConv', 'mmkerv.CoCConv', 'mmkerv.ops.coc.module.CoCConv', CoCConv, CoCConv2d],
    ids=['name', 'scope', 'path', 'class', 'layer'],
)


def named(kind: str | type) -> str:
    """How a written config names a type."""
    return kind if isinstance(kind, str) else f'{kind.__module__}.{kind.__qualname__}'


def deployed(model: dict, kept: tuple[str, ...] = (), **cfg) -> Config:
    return deploy_config(Config({'default_scope': 'mmdet', **cfg, 'model': model}), kept)


@KINDS
def test_operators_are_removed_from_every_part_of_the_model(kind):
    coc = dict(type=kind, association=3)
    model = dict(
        type='Cascade',
        backbone=dict(type='ResNet', conv_cfg=coc, dcn=dict(type='DCNv2', deform_groups=1)),
        neck=[dict(type='FPN', conv_cfg=coc), dict(type='BFP', refine_conv_cfg=coc)],
        roi_head=dict(bbox_head=[dict(conv_cfg=coc, num_convs=2), dict(conv_cfg=dict(type='ConvWS'))], deep=([coc],)),
        auxiliary_head=(dict(conv_cfg=coc), dict(conv_cfg=None)),
    )
    cfg = Config(dict(default_scope='mmdet', model=model))
    before = copy.deepcopy(cfg._cfg_dict.to_dict())
    result = deploy_config(cfg).model.to_dict()
    assert result == dict(
        type='Cascade',
        backbone=dict(type='ResNet', conv_cfg=None, dcn=dict(type='DCNv2', deform_groups=1)),
        neck=[dict(type='FPN', conv_cfg=None), dict(type='BFP', refine_conv_cfg=None)],
        roi_head=dict(
            bbox_head=[dict(conv_cfg=None, num_convs=2), dict(conv_cfg=dict(type='ConvWS'))],
            deep=([dict(coc, type=named(kind))],),
        ),
        auxiliary_head=(dict(conv_cfg=None), dict(conv_cfg=None)),
    )
    assert cfg._cfg_dict.to_dict() == before, 'the argument is unchanged'


@KINDS
@pytest.mark.parametrize('host', [None, 'mmdet', 'mmseg', 'mmpretrain'])
@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
def test_a_variant_becomes_upstreams_backbone(kind, host, scope):
    for library in (host, scope):
        pytest.importorskip(library or scope)
    backbone = dict(type='mmkerv.ResNet', depth=18, conv_cfg=dict(type=kind), where=dict(stages=(1,)), out_indices=(3,))
    if host:
        backbone['host'] = host
    result = deployed(dict(backbone=backbone), default_scope=scope)
    assert result.model.backbone.to_dict() == dict(type=f'{host or scope}.ResNet', depth=18, out_indices=(3,))


@pytest.mark.parametrize('kind', ['mmkerv.ResNet', 'mmkerv.models.ResNet', ResNet], ids=['scope', 'path', 'class'])
def test_a_variant_without_operators_becomes_upstreams_backbone(kind):
    pytest.importorskip('mmpretrain')
    result = deployed(dict(backbone=dict(type=kind, depth=18)), default_scope='mmpretrain')
    assert result.model.backbone.to_dict() == dict(type='mmpretrain.ResNet', depth=18)


@pytest.mark.parametrize('scope', [None, 'mmpose'])
def test_a_variant_of_an_unknown_library_is_refused(scope, monkeypatch):
    # Other tests may have left a scope behind.
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())
    cfg = dict(model=dict(backbone=dict(type='mmkerv.ResNet', depth=18)))
    with pytest.raises(ArgumentError, match='host'):
        deploy_config(Config({**cfg, 'default_scope': scope} if scope else cfg))


@pytest.mark.parametrize(
    'imports, expected',
    [
        (['mmkerv'], None),
        ('mmkerv', None),
        (['mmkerv.ops', 'mmkerv'], None),
        (['mine', 'mmkerv'], ['mine']),
        (['mmkerving'], ['mmkerving']),
        ('mine', ['mine']),
    ],
)
def test_imports_of_mmkerv_are_removed(imports, expected):
    result = deployed(
        dict(backbone=dict(conv_cfg=dict(type='CoCConv'))),
        custom_imports=dict(imports=imports, allow_failed_imports=False),
    )
    if expected is None:
        assert 'custom_imports' not in result
    else:
        assert result.custom_imports.to_dict() == dict(imports=expected, allow_failed_imports=False)


def test_hooks_of_mmkerv_are_removed_and_others_stay():
    hooks = [dict(type='mmkerv.FrozenKernelsHook'), dict(type='EMAHook'), dict(type=CheckpointMatchHook)]
    result = deployed(dict(backbone=dict(conv_cfg=dict(type='CoCConv'))), custom_hooks=hooks)
    assert [hook.to_dict() for hook in result.custom_hooks] == [dict(type='EMAHook')]


@pytest.mark.parametrize(
    'rules', [None, {'operator_rules': False}, {'constructor': 'Mine', 'norm_decay_mult': 0.0}], ids=str
)
def test_the_optimizer_constructor_of_mmkerv_is_replaced_by_the_one_inside(rules):
    wrapper = dict(optimizer=dict(type='SGD'), constructor='mmkerv.OperatorRulesConstructor')
    wrapper |= {} if rules is None else {'paramwise_cfg': rules}
    result = deployed(dict(backbone=dict(conv_cfg=dict(type='CoCConv'))), optim_wrapper=wrapper).optim_wrapper
    inside = (
        {'constructor': 'Mine', 'paramwise_cfg': {'norm_decay_mult': 0.0}} if rules and 'constructor' in rules else {}
    )
    assert result.to_dict() == {'optimizer': {'type': 'SGD'}, **inside}
    kept = deployed(dict(backbone=dict(conv_cfg=dict(type='KervConv'))), ('KervConv',), optim_wrapper=wrapper)
    assert kept.optim_wrapper.constructor == 'mmkerv.OperatorRulesConstructor'


@KINDS
def test_an_operator_that_was_not_folded_stays_with_imports_and_hooks(kind):
    cfg = dict(
        custom_imports=dict(imports=['mmkerv'], allow_failed_imports=False),
        custom_hooks=[dict(type='mmkerv.FrozenKernelsHook')],
    )
    model = dict(
        backbone=dict(type='mmkerv.ResNet', conv_cfg=dict(type=kind), where=dict(stages=(1,)), host='mmdet'),
        neck=[dict(conv_cfg=dict(type='ConvWS'))],
    )
    result = deployed(model, kept=('CoCConv',), **cfg)
    model['backbone']['conv_cfg'] = dict(type=named(kind))
    assert result.model.to_dict() == model
    assert result.custom_imports.imports == ['mmkerv'] and len(result.custom_hooks) == 1


def test_a_config_without_operators_stays_the_same():
    cfg = dict(
        custom_imports=dict(imports=['mine'], allow_failed_imports=True),
        custom_hooks=[dict(type='EMAHook')],
        train_cfg=dict(max_epochs=3),
        optim_wrapper=dict(type='OptimWrapper'),
    )
    model = dict(type='RetinaNet', backbone=dict(type='ResNet', conv_cfg=dict(type='ConvWS'), norm_cfg=dict(type='BN')))
    result = deployed(model, **cfg)
    assert result._cfg_dict.to_dict() == {'default_scope': 'mmdet', 'model': model, **cfg}


def test_the_written_config_can_be_read(tmp_path):
    """A class as `type` leaves nothing in the text that a config file cannot hold."""
    result = deployed(dict(type='RetinaNet', backbone=dict(type='ResNet', conv_cfg=dict(type=CoCConv2d))))
    (tmp_path / 'deploy.py').write_text(result.pretty_text)
    again = Config.fromfile(tmp_path / 'deploy.py')
    assert again.model.backbone.conv_cfg is None and again.to_dict() == result.to_dict()


@pytest.mark.parametrize('prefix', ['', 'mmkerv.', 'mmkerv.ops.'])
@pytest.mark.parametrize(
    ('name', 'form'), [('DepthwiseSeparableConv', 'depthwise'), ('SpatiallySeparableConv', 'spatial')]
)
def test_separable_operators_become_a_folded_conv(prefix, name, form):
    result = deployed(dict(backbone=dict(type='ResNet', conv_cfg=dict(type=f'{prefix}{name}'))))
    assert result.model.backbone.conv_cfg.to_dict() == dict(type='mmkerv.FoldedConv', separable=form)


@pytest.mark.parametrize('kept', [(), ('DCLSConv',)], ids=['folded', 'kept'])
def test_folded_layers_share_nothing(kept):
    share = dict(names='positions')
    conv_cfg = dict(type='mmkerv.DCLSConv', kernel_extent=7)
    network = dict(type='mmkerv.Converted', model=dict(type='DenseNet'), conv_cfg=conv_cfg, share=share)
    result = deployed(dict(backbone=network), kept).model.backbone
    if kept:
        assert result.to_dict() == network
    else:
        assert 'share' not in result and result.conv_cfg.to_dict() == dict(type='mmkerv.FoldedConv', kernel_extent=7)


@pytest.mark.parametrize('key', ['backbone', 'model'])
def test_a_converted_network_becomes_the_network_itself(key):
    network = dict(type='DenseNet', arch='121')
    outer = {
        'type': 'mmkerv.Converted',
        key: network,
        'conv_cfg': dict(type='mmkerv.CoCConv'),
        'where': dict(stages=()),
    }
    nested = dict(type='mmkerv.Converted', backbone=outer, conv_cfg=dict(type='mmkerv.CoCConv'))
    assert deployed(dict(backbone=nested)).model.backbone.to_dict() == network


def test_low_rank_operators_become_a_folded_conv_in_the_layers_they_took():
    conv_cfg = dict(type='mmkerv.LowRankConv', rank=0.25)
    result = deployed(dict(backbone=dict(type='ResNet', conv_cfg=conv_cfg)))
    folded = dict(type='mmkerv.FoldedConv', lowrank=dict(rank=0.25))
    assert result.model.backbone.conv_cfg.to_dict() == folded and 'where' not in result.model.backbone
    for where in (None, dict(names=['conv1'])):
        network = dict(type='mmkerv.Converted', model=dict(type='ResNet'), conv_cfg=conv_cfg, where=where)
        result = deployed(dict(backbone=network)).model.backbone
        # By default the operator takes 1x1 kernels, which its folded form would leave.
        assert result.conv_cfg.to_dict() == folded and result.where == dict(kernel_sizes='all', **(where or {}))
    network['where'] = dict(kernel_sizes=[3])
    assert deployed(dict(backbone=network)).model.backbone.where == dict(kernel_sizes=[3])


@pytest.mark.parametrize('inner', [{}, dict(data_preprocessor=dict(mean=[1.0]), train_cfg=dict(inner=1))], ids=bool)
def test_what_stands_beside_the_converted_network_stays(inner):
    beside = dict(data_preprocessor=dict(mean=[2.0]), train_cfg=dict(outer=1), test_cfg=dict(outer=2))
    network = dict(type='RetinaNet', **inner)
    model = dict(type='mmkerv.Converted', model=network, conv_cfg=dict(type='mmkerv.CoCConv'), share=[], **beside)
    # As Converted itself builds it.
    preprocessor = inner.get('data_preprocessor', beside['data_preprocessor'])
    assert deployed(model).model.to_dict() == {'type': 'RetinaNet', **beside, 'data_preprocessor': preprocessor}


@pytest.mark.parametrize('kept', [(), ('CoCConv',)], ids=['folded', 'kept'])
def test_the_state_of_the_run_is_left_out(kept):
    model = dict(backbone=dict(conv_cfg=dict(type='CoCConv')))
    wrapper = dict(type='mmkerv.CpuAmpOptimWrapper', optimizer=dict(type='SGD'), clip_grad=dict(max_norm=1))
    result = deployed(model, kept, resume=True, load_from='work_dirs/a/epoch_3.pth', optim_wrapper=wrapper)
    assert (result.resume, result.load_from) == (False, None)
    # What needs mmkerv anyway trains as before.
    assert result.optim_wrapper.to_dict() == {**wrapper, 'type': wrapper['type'] if kept else 'OptimWrapper'}
