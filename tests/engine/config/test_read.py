import pickle
import random
import sys

import mmengine
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio.handlers import YamlHandler
from mmengine.fileio.handlers.registry_utils import file_handlers

from mmkerv.config_files import config_name
from mmkerv.distributions import importable
from mmkerv.engine import apply_patches
from mmkerv.engine.config.read import load_config, read_config
from mmkerv.errors import ConfigError, InstallationError, UnsafeCheckpointError


class MaliciousObject:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return exec, (f'open({self.target!r}, "w").close()',)


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('a.py', "_base_ = './a.py'", r'inherits from itself: \S+a\.py -> \S+a\.py\. Change _base_'),
        ('a.py', "_base_ = ['./c.py', './b.py']", r'a\.py -> \S+b\.py -> \S+a\.py'),
        ('a.yaml', '_base_: ./a.yaml', r'inherits from itself'),
        ('a.py', 'a = (\n', r"SyntaxError: .*'\(' was never closed .*line 1"),
        ('a.py', 'a = 1\nb = c', r"NameError \(line 2\): name 'c' is not defined"),
        ('a.py', '_base_ = 3', r'Error: '),
        ('a.json', '{"a": ', r'JSONDecodeError \(line 1\)'),
        ('a.json', '[1]', r'AttributeError'),
        ('a.yaml', 'a: [1', r'ParserError'),
        ('a.txt', 'a = 1', r'must end in one of \.py, \.json, \.yaml, \.yml'),
    ],
)
def test_error_of_a_config_is_one_line(tmp_path, name, text, message):
    (tmp_path / 'b.py').write_text("_base_ = './a.py'")
    (tmp_path / 'c.py').write_text('')
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(str(tmp_path / name))
    message = str(caught.value)
    assert message.startswith(f'config {str(tmp_path / name)!r} ') and '\n' not in message


def test_bases_by_read_base_that_include_one_another_are_refused(tmp_path):
    for name, base in ('ab', 'ba'):
        text = f'from mmengine.config import read_base\nwith read_base():\n    from .{base} import *\n'
        (tmp_path / f'{name}.py').write_text(text)
    with pytest.raises(ConfigError, match=r"a\.py' cannot be read: its bases by read_base include one another"):
        read_config(str(tmp_path / 'a.py'))


def test_bytes_that_are_not_text_are_refused(tmp_path):
    (tmp_path / 'a.py').write_bytes(b'a = "\xff"')
    with pytest.raises(ConfigError, match='UnicodeDecodeError'):
        read_config(str(tmp_path / 'a.py'))


def test_missing_base_is_named(tmp_path):
    (tmp_path / 'a.py').write_text("_base_ = './none.py'")
    with pytest.raises(FileNotFoundError, match=r"a\.py' needs '.*none\.py', which cannot be read.*_base_"):
        read_config(str(tmp_path / 'a.py'))


@pytest.mark.skipif(importable('mmrotate'), reason='mmrotate is installed')
def test_the_base_of_a_library_that_is_not_installed_is_refused_with_advice(tmp_path):
    (tmp_path / 'a.py').write_text("_base_ = 'mmrotate::oriented_rcnn/a.py'")
    with pytest.raises(InstallationError, match=r'not installed: mmrotate'):
        read_config(str(tmp_path / 'a.py'))


@pytest.mark.parametrize('inherited', [False, True])
@pytest.mark.parametrize('suffix', ['yaml', 'yml'])
def test_yaml_runs_nothing(tmp_path, suffix, inherited, monkeypatch):
    """mmengine without the patches runs it."""
    monkeypatch.setitem(file_handlers, suffix, YamlHandler())
    target, file = tmp_path / 'target', tmp_path / f'a.{suffix}'
    file.write_text(f'a: !!python/object/apply:os.system ["touch {target}"]')
    Config.fromfile(str(file))
    assert target.exists()
    target.unlink()
    if inherited:
        (tmp_path / 'b.py').write_text(f"_base_ = './{file.name}'")
        file = tmp_path / 'b.py'
    with pytest.raises(ConfigError, match=r'ConstructorError: could not determine a constructor.*os\.system'):
        read_config(str(file))
    assert not target.exists()


def test_yaml_written_by_mmengine_is_read_back(tmp_path):
    cfg = Config({'a': {'b': (1, 2), 'c': [None, 0.5, 'text']}})
    cfg.dump(str(tmp_path / 'a.yaml'))
    assert read_config(str(tmp_path / 'a.yaml')).to_dict() == cfg.to_dict()


@pytest.mark.parametrize('trust', [False, True])
def test_pickled_annotations_run_only_if_trusted(tmp_path, trust):
    target, file = tmp_path / 'target', tmp_path / 'a.pkl'
    file.write_bytes(pickle.dumps({'data_list': MaliciousObject(target)}, 2))
    apply_patches(trust=trust)
    if trust:
        mmengine.load(file)
    else:
        with pytest.raises(UnsafeCheckpointError, match=r'was not read.*exec.*Nothing of it was executed'):
            mmengine.load(file)
    assert target.exists() == trust


def test_pickled_data_is_read_back(tmp_path):
    data = {'data_list': [{'img_path': 'a.jpg', 'bbox': np.arange(4.0), 'label': np.int64(3), 'size': (1, 2)}]}
    apply_patches()
    mmengine.dump(data, tmp_path / 'a.pkl')
    back = mmengine.load(tmp_path / 'a.pkl')
    assert np.array_equal(back['data_list'][0].pop('bbox'), data['data_list'][0].pop('bbox')) and back == data


def test_reading_a_config_draws_no_random_numbers(tmp_path):
    file = tmp_path / 'net.py'
    file.write_text("model = dict(type='A', conv_cfg=dict(type='CoCConv', super_init='kaiming'))")
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    load_config(str(file))
    after = torch.random.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert torch.equal(before[0], after[0]) and np.array_equal(before[1], after[1]) and before[2] == after[2]


IMPORTS = 'custom_imports = dict(imports={!r}, allow_failed_imports=False)\n'


@pytest.mark.parametrize('by_option', [False, True], ids=['file', 'option'])
@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, "custom_imports: No module named 'my_module_for_read'; .* found if its folder is in PYTHONPATH"),
        ('from torch import no_such_name', r"custom_imports: cannot import name 'no_such_name' from 'torch' \(\S+\)\."),
        ('raise ValueError("no good.")', r'ValueError.*: no good\. Correct the'),
    ],
    ids=['absent', 'import', 'error'],
)
def test_a_module_that_cannot_be_imported_is_named(tmp_path, monkeypatch, text, message, by_option):
    monkeypatch.syspath_prepend(tmp_path)
    if text is not None:
        (tmp_path / 'my_module_for_read.py').write_text(text)
    (tmp_path / 'net.py').write_text('' if by_option else IMPORTS.format(['my_module_for_read']))
    options = {'custom_imports.imports': 'my_module_for_read'} if by_option else {}
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(str(tmp_path / 'net.py'), options)
    assert '\n' not in str(caught.value) and 'sys.path' not in str(caught.value)
    assert str(caught.value).startswith('--cfg-options custom_imports=' if by_option else 'config ')


def test_an_option_adds_modules_that_are_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'my_module_for_read.py').write_text('')
    (tmp_path / 'net.py').write_text(IMPORTS.format(['mmkerv']))
    try:
        cfg = load_config(str(tmp_path / 'net.py'), {'custom_imports.imports': ['mmkerv', 'my_module_for_read']})
        assert 'my_module_for_read' in sys.modules
    finally:
        sys.modules.pop('my_module_for_read', None)
    assert cfg.custom_imports.imports == ['mmkerv', 'my_module_for_read'], 'the config of the run has it too'
    with pytest.raises(ConfigError, match='--cfg-options custom_imports=3: '):
        load_config(str(tmp_path / 'net.py'), {'custom_imports': 3})


@pytest.mark.parametrize(
    ('name', 'network'),
    [
        ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'RetinaNet'),
        ('mmseg::fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py', 'EncoderDecoder'),
        ('mmpretrain::resnet/resnet50_8xb32_in1k.py', 'ImageClassifier'),
        ('mmkerv::retinanet_r50_coc.py', 'RetinaNet'),
    ],
)
def test_configs_of_installed_libraries_are_read_by_name(name, network):
    cfg = load_config(name, {'randomness.seed': 3})
    assert cfg.model.type == network and cfg.randomness.seed == 3 and config_name(cfg.filename) == config_name(name)


@pytest.mark.parametrize(
    ('name', 'kind', 'message'),
    [
        (
            'mmdet::retinanet/retinanet_r50_fpn_1x_coc.py',
            FileNotFoundError,
            'did you mean mmdet::retinanet/',
        ),
        ('mmdet::absent.py', FileNotFoundError, "'mmdet::absent.py' does not exist; mmdet has its configs in "),
        ('mmkerv::absent.py', FileNotFoundError, 'mmkerv has no config .absent.py.'),
        ('mmdett::a/b.py', ConfigError, "'mmdett' is no library with configs; write mmdet or"),
        ('mmgen::a/b.py', InstallationError, 'mmgen is not installed; install it, or give the path of a file'),
    ],
)
def test_mistakes_in_the_name_of_a_config(name, kind, message):
    with pytest.raises(kind, match=message):
        load_config(name)
