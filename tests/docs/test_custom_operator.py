"""The page on operators of one's own, from the module in PyTorch to the comparison, run in a folder of its own."""

import re
import sys

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')
pytest.importorskip('matplotlib')

from mmengine.registry import MODELS, init_default_scope

from mmkerv.cli import compare
from mmkerv.engine.config.read import load_config
from mmkerv.models.inventory import inventory
from tests.docs.blocks import ROOT, blocks_of

PAGE = 'docs/custom_operator.md'
BLOCKS = blocks_of((ROOT / PAGE).read_text(), PAGE)
PYTHON = [block.code for block in BLOCKS if block.language == 'python']
MODULE = next(code for code in PYTHON if '@mmkerv.register_operator()' in code)
CONFIG = next(code for code in PYTHON if '_base_' in code)
DESCRIPTION, TABLE = (block.code.rstrip() for block in BLOCKS if block.language == 'text')


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Folder of a user with the files of the page, where Python finds modules."""
    (tmp_path / 'my_conv.py').write_text(MODULE)
    (tmp_path / 'my_config.py').write_text(CONFIG)
    (tmp_path / 'plain.py').write_text(re.search(r'^_base_ = .*\n', CONFIG)[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop('my_conv', None)


def test_the_blocks_in_a_row(folder, capsys):
    namespace = {'__name__': 'page'}
    for code in PYTHON:
        if code not in (MODULE, CONFIG):
            exec(compile(code, PAGE, 'exec'), namespace)
    assert DESCRIPTION in capsys.readouterr().out
    assert (folder / 'kernels.png').stat().st_size > 1000


def test_the_config():
    cfg = load_config('my_config.py')
    init_default_scope('mmpretrain')
    found = inventory(MODELS.build(cfg.model))
    assert list(found.by_operator()) == ['CentralDifferenceConv']
    assert {operator.options.theta for operator in found.operators.values()} == {0.7}


def test_the_comparison(capsys):
    """The import comes from the option, and the operator is looked up after it."""
    command = next(line for block in BLOCKS for line in block.code.splitlines() if 'mmkerv compare' in line)
    flags = command.partition('PLAIN_CONFIG.py')[2].split()
    compare.main(['plain.py', *flags, '--dry-run'])
    out = capsys.readouterr().out
    assert TABLE in out, out
    assert 'cdc: 17 of 20 convolutions -> CentralDifferenceConv (backbone 17); kept 3 1x1; CentralDifferenceConv' in out
