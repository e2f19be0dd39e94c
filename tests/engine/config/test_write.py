"""Pure-Python configs and classes in configs: the library they belong to, their imports, and writing them."""

import functools

import pytest
from mmengine.config import Config
from mmengine.config.lazy import LazyObject
from torch import nn

from mmkerv.deploy.config import deploy_config
from mmkerv.engine.config.launch import revert_sync_bn
from mmkerv.engine.config.prepare import prepare, use_amp
from mmkerv.engine.config.read import load_config
from mmkerv.engine.config.write import by_name
from mmkerv.engine.scope import library_of
from mmkerv.errors import ConfigError
from mmkerv.models.placement import convert
from mmkerv.ops import CoCConv, CoCConv2d

PURE = """
from mmengine.config import read_base
from mmengine.model import BaseModel, PretrainedInit
from mmengine.optim import OptimWrapper
from torch import nn
from mmkerv.engine import FrozenKernelsHook
from mmkerv.ops import CKConv
with read_base():
    from .base import *
model.update(act_cfg=dict(type=nn.ReLU), conv_cfg=dict(type=CKConv, kernel_extent=5, hidden=8))
optim_wrapper = dict(type=OptimWrapper)
custom_hooks = [dict(type=FrozenKernelsHook)]
default_scope = None
"""
BASE = 'from mmengine.model import BaseModel\nmodel = dict(type=BaseModel)\ndata_root = "old"\n'


@pytest.fixture
def pure(tmp_path):
    (tmp_path / 'base.py').write_text(BASE)
    (tmp_path / 'pure.py').write_text(PURE)
    return tmp_path / 'pure.py'


def test_a_pure_python_config_is_written_as_it_was_read(pure, tmp_path, monkeypatch):
    # BaseModel has none of these arguments.
    monkeypatch.setattr('mmkerv.engine.config.prepare.model_faults', lambda cfg: [])
    cfg = load_config(str(pure), {'data_root': 'new'})
    assert cfg.model.type.__name__ == 'BaseModel' and cfg.default_scope is None
    prepare(cfg, type('Args', (), dict(config='a.py', work_dir=None, launcher='none')), ('train',))
    types = [hook['type'] for hook in cfg.custom_hooks]
    assert sum('FrozenKernelsHook' in str(kind) for kind in types) == 1, types
    use_amp(cfg)
    cfg.dump(tmp_path / 'again.py')
    again = Config.fromfile(tmp_path / 'again.py')
    assert again.model.type == 'mmengine.model.BaseModel' and again.model.act_cfg.type == 'torch.nn.ReLU'
    assert again.model.conv_cfg.to_dict() == dict(type='mmkerv.ops.CKConv', kernel_extent=5, hidden=8)
    assert load_config(str(tmp_path / 'again.py')).to_dict() == again.to_dict()


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        (
            'from mmengine.model import BaseModl as BaseModel',
            r'mmengine\.model has no BaseModl; did you mean BaseModel\?',
        ),
        ('from mmenginee.model import BaseModel', "ModuleNotFoundError: No module named 'mmenginee'"),
    ],
)
def test_a_wrong_import_is_named_with_its_line(tmp_path, line, message):
    file = tmp_path / 'a.py'
    file.write_text(f'import mmengine.model\n{line}\nmodel = dict(type=BaseModel)\n')
    with pytest.raises(ConfigError, match=rf"a\.py': model\.type is .*\(.*a\.py, line 2\): {message}"):
        load_config(str(file))


class Own(nn.Module):
    pass


Own.__module__ = 'mine'


@pytest.mark.parametrize('library', ['mmdet', 'mmseg', 'mmpretrain'])
def test_the_library_is_told_by_the_class_of_the_model(library):
    pytest.importorskip(library)
    from mmengine.utils import get_object_from_string

    base = get_object_from_string(
        {'mmdet': 'mmdet.models.RetinaNet', 'mmseg': 'mmseg.models.EncoderDecoder'}.get(
            library, 'mmpretrain.models.ImageClassifier'
        )
    )
    own = type('Own', (base,), {'__module__': 'mine'})
    for kind in (base, own, functools.partial(own, neck=None), f'{base.__module__}.{base.__name__}', f'{library}.Net'):
        assert library_of(Config(dict(default_scope=None, model=dict(type=kind)))) == library
    wrapped = dict(type='mmkerv.Converted', backbone=dict(type=base))
    assert library_of(Config(dict(model=wrapped))) == library
    assert library_of(Config(dict(default_scope='mmengine', model=dict(type=base)))) == 'mmengine'


def test_rotated_detection_is_told_by_anything_of_its_own():
    """The models of mmrotate are mmdetection's, with rotated heads and data."""
    model = dict(type='mmdet.FasterRCNN', rpn_head=dict(type='mmrotate.OrientedRPNHead'))
    assert library_of(Config(dict(model=model))) == 'mmrotate'
    data = dict(dataset=dict(type='mmrotate.datasets.DOTADataset'))
    assert library_of(Config(dict(model=dict(type='mmdet.RetinaNet'), train_dataloader=data))) == 'mmrotate'
    assert library_of(Config(dict(model=dict(type='mmdet.RetinaNet'), train_dataloader={}))) == 'mmdet'
    assert library_of(Config(dict(model=dict(type='mmseg.EncoderDecoder'), train_dataloader=data))) == 'mmseg'


def test_a_config_of_no_library_has_none():
    assert library_of(Config(dict(model=dict(type=Own, backbone=dict(type='ResNet'))))) is None
    assert library_of(Config({})) is None


def test_partials_are_types():
    partial = functools.partial(CoCConv, association=3)
    net = convert(nn.Sequential(nn.Conv2d(3, 8, 3)), dict(type=partial))
    assert isinstance(net[0], CoCConv2d) and net[0].options.association == 3
    # As in a pure-Python config, whose imports are deferred.
    deferred = functools.partial(LazyObject('mmkerv.ops', 'CoCConv'), association=3)
    for kind in (partial, deferred):
        cfg = by_name(Config(dict(model=dict(conv_cfg=dict(type=kind, super_init='kaiming')))))
        written = cfg.model.to_dict()['conv_cfg']
        assert written['association'] == 3 and written['super_init'] == 'kaiming'
        assert written['type'].endswith('CoCConv') and cfg.model.conv_cfg.type is CoCConv
    assert deploy_config(Config(dict(model=dict(type='A', conv_cfg=dict(type=partial))))).model.conv_cfg is None
    with pytest.raises(
        ConfigError, match=r'model\.type is functools\.partial\(CoCConv, \.\.\.\) with arguments without'
    ):
        by_name(Config(dict(model=dict(type=functools.partial(CoCConv, 3)))))


def test_values_that_are_imported_are_written_as_values(tmp_path):
    file = tmp_path / 'a.py'
    file.write_text('import tests.engine.config.test_write as t\nclasses = t.NAMES\nmodel = dict(type=t.Own)\n')
    cfg = load_config(str(file))
    assert cfg.to_dict()['classes'] == NAMES


def test_classes_in_lists_stay_usable():
    """mmengine builds a deferred import only where it is the value of a key."""
    cfg = by_name(Config(dict(model=dict(layers=[nn.ReLU, dict(type=nn.GELU)], kind=nn.Linear))))
    assert cfg.model.layers[0] is nn.ReLU and cfg.model.layers[1].type is nn.GELU and cfg.model.kind is nn.Linear


NAMES = ('a', 'b')


@pytest.mark.parametrize('kind', ['SyncBN', nn.SyncBatchNorm, 'torch.nn.SyncBatchNorm'])
def test_sync_bn_by_class_becomes_bn(kind):
    model = dict(norm_cfg=dict(type=kind))
    assert revert_sync_bn(model) == 1 and model == dict(norm_cfg=dict(type='BN'))
