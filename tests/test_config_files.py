"""The configs that come with mmkerv are found in a clone and in an installed package."""

import subprocess
import sys
from pathlib import Path

import pytest

import mmkerv
from mmkerv import config_files
from mmkerv.cli import common, configs, ops
from mmkerv.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def test_all_configs_of_the_checkout_are_listed():
    files = {f.relative_to(ROOT / 'configs').as_posix() for f in (ROOT / 'configs').rglob('*.py')}
    assert set(mmkerv.list_configs()) == {file for file in files if not file.startswith('_base_/')}


@pytest.mark.parametrize(
    'pattern, found',
    [
        ('*coc*', 'imagenet/resnet50_coc.py'),
        ('coc', 'imagenet/resnet50_coc.py'),
        ('imagenet/*', 'imagenet/resnet50_coc.py'),
        ('retinanet_r50_coc', 'retinanet_r50_coc.py'),
        ('lenet5_ker?', 'mnist/lenet5_kerv.py'),
    ],
)
def test_patterns_match_paths_and_names(pattern, found):
    listed = mmkerv.list_configs(pattern)
    assert found in listed and 'faster_rcnn_r50.py' not in listed and listed == sorted(listed)
    assert not mmkerv.list_configs('nothing_of_this_name')


def test_the_installed_package_comes_first(tmp_path, monkeypatch):
    package = tmp_path / 'mmkerv'
    folders = (package / '.mim' / 'configs', tmp_path / 'configs')
    monkeypatch.setattr(config_files, 'FOLDERS', folders)
    with pytest.raises(ConfigError, match=r'mmkerv has no configs: .*\.mim/configs.*pip install -e'):
        config_files.list_configs()
    for folder in reversed(folders):
        (folder / '_base_').mkdir(parents=True)
        (folder / 'a.py').touch()
        assert config_files.config_folder() == folder
    assert config_files.list_configs() == ['a.py']


def test_the_command_lists_and_says_where(capsys):
    configs.main(['retinanet_r50_c*'])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ['retinanet_r50_ck.py', 'retinanet_r50_coc.py', 'retinanet_r50_coc_scratch.py']
    assert lines[-1] == f"3 configs in {config_files.config_folder()}; inherit from one by _base_ = 'mmkerv::PATH'"
    with pytest.raises(SystemExit, match=r"^error: no config matches 'no such'; mmkerv configs lists all \d+$"):
        common.run(configs.main, ['no such'])


def test_the_command_describes_operators(capsys):
    ops.main([])
    text = capsys.readouterr().out
    assert text.startswith('CKConv ') and 'kernels of KervConv: ' in text and '`' not in text
    ops.main(['dcls'])
    assert capsys.readouterr().out.startswith('DCLSConv: Dilated convolution with learnable spacings')
    with pytest.raises(SystemExit, match=r"^error: mmkerv has no operator 'CocConv'; did you mean 'CoCConv'\?"):
        common.run(ops.main, ['CocConv'])


@pytest.mark.parametrize('module', ['ops', 'configs'])
def test_help_imports_nothing_large(module):
    code = (
        f'import sys; from mmkerv.cli import {module}\ntry: {module}.main(["-h"])\nexcept SystemExit: pass\n'
        'assert "torch" not in sys.modules, "torch was imported"'
    )
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
