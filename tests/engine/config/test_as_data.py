"""Configs read as data: what mmengine has written is read as it was, and nothing else is read."""

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

from mmengine.config import Config

from mmkerv.engine.config.as_data import config_from_text, foreign_parts
from mmkerv.engine.config.read import load_config
from mmkerv.errors import ConfigError, UnsafeCheckpointError
from tests.tools.three_tasks import CONFIGS


@pytest.mark.parametrize(
    ('task', 'kind'),
    [('detection', 'new'), ('segmentation', 'new'), ('classification', 'new'), ('classification', 'old')],
)
def test_written_configs_are_read_as_they_were(task, kind, tmp_path):
    text = load_config(str(CONFIGS / f'{task}_{kind}.py')).pretty_text
    (tmp_path / 'a.py').write_text(text)
    assert config_from_text(text, 'a.py')._cfg_dict == Config.fromfile(tmp_path / 'a.py')._cfg_dict


def test_values_of_every_kind():
    text = "a = [1, -2.5, +3, 1e-05, True, None, 'b']\nc = (1,)\nd = {'e.f': dict(g=())}\n"
    cfg = config_from_text(text, 'a.py')
    assert cfg.a == [1, -2.5, 3, 1e-05, True, None, 'b'] and cfg.c == (1,) and cfg.d == {'e.f': {'g': ()}}


def test_names_of_classes_may_have_parentheses():
    assert not foreign_parts(Config(dict(metainfo=dict(classes=('car (red)',)), model=dict(type='torch.nn.ReLU'))))
    with pytest.raises(UnsafeCheckpointError, match=r"model.a 'f\(x\)' has a parenthesis"):
        config_from_text("model = dict(a='f(x)')", 'a.py')


@pytest.mark.parametrize(
    'kind',
    ['mmkerv.CKCNN', 'mmkerv.models.CKCNN', 'torch.nn.modules.activation.ReLU', 'mmdet.RetinaNet', 'ResNet', 'BN',
     'torchvision/CenterCrop', 'mmdet.datasets.transforms.PackDetInputs', 'nms'],
)  # fmt: skip
def test_parts_of_networks_and_pipelines_pass(kind):
    assert foreign_parts(Config(dict(model=dict(type=kind)))) == []


@pytest.mark.parametrize(
    'kind',
    ['os.system', 'open', 'antigravity', 'torch.load', 'torch.hub.load', 'mmengine.fileio.load', 'mmkerv.errors',
     'mmengine.Config.fromfile', 'torch.nn.Absent', 'torch.__main__', 'a b', '', 'torch.nn.ReLU.forward'],
)  # fmt: skip
def test_everything_else_is_refused(kind):
    (fault,) = foreign_parts(Config(dict(model=dict(type=kind))))
    assert fault == f'model.type {kind!r} is no class of OpenMMLab, torch or timm'


def test_a_library_that_is_missing_is_named_first(monkeypatch):
    monkeypatch.setattr('mmkerv.distributions.importable', lambda name: name != 'mmdet')
    with pytest.raises(ImportError, match='mmdet'):
        config_from_text("default_scope = 'mmdet'\nmodel = dict(type='mmdet.RetinaNet')", 'a.py')


def test_import_that_is_not_there():
    from mmkerv.engine.config.as_data import import_customs

    cfg = config_from_text("custom_imports = dict(imports=['mmdet.absent'])", 'a.py')
    with pytest.raises(ConfigError, match=r"config 'a.py' imports 'mmdet.absent', which is not there"):
        import_customs(cfg, 'a.py')
