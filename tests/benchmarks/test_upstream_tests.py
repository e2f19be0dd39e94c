"""The script that runs upstream's tests with operators, on two tests that stand for upstream's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmcv')

SCRIPT = Path(__file__).resolve().parents[2] / 'benchmarks' / 'upstream_tests.py'
TESTS = """
import torch
from mmcv.cnn import ConvModule, build_conv_layer
from torch import nn


def test_shape():
    assert ConvModule(3, 8, 3, stride=2, padding=1)(torch.ones(1, 3, 8, 8)).shape == (1, 8, 4, 4)


def test_even():
    assert type(build_conv_layer(None, 3, 8, 2)) is nn.Conv2d


def test_class():
    assert type(build_conv_layer(None, 3, 8, 3)) is nn.Conv2d, 'the class is stated'


def test_type_is_kept():
    assert type(build_conv_layer(dict(type='Conv2d'), 3, 8, 3)) is nn.Conv2d


def test_broken():
    raise RuntimeError('upstream')
"""


def run(*args):
    return subprocess.run([sys.executable, SCRIPT, *map(str, args)], capture_output=True, text=True, timeout=300)


@pytest.mark.long
def test_failures_that_only_the_operator_has_are_listed(tmp_path):
    folder = tmp_path / 'tests' / 'test_models' / 'test_necks'
    folder.mkdir(parents=True)
    (folder / 'test_layers.py').write_text(TESTS)
    found = run(tmp_path, '--operator', 'coc', '--json', tmp_path / 'found.json')
    assert '5 tests: 3 pass in both, 1 fail plain, 1 fail with coc only' in found.stdout, found.stdout + found.stderr
    assert '2 layers were built as operators' in found.stdout
    assert 'test_layers.py::test_class' in found.stdout and 'the class is stated' in found.stdout
    assert 'test_broken' not in found.stdout and found.returncode == 1
    record = json.loads((tmp_path / 'found.json').read_text())
    assert record['plain'].keys() == record['changed'].keys()


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--operator', 'coc'], 'has no tests/test_models/test_backbones'),
        (['--operator', 'cok'], "there is no 'cok'; use one of"),
        (['--files', 'tests/none'], 'has no tests/none'),
    ],
)
def test_bad_arguments_are_refused(tmp_path, args, message):
    found = run(tmp_path, *args)
    assert found.returncode != 0 and message in found.stderr
