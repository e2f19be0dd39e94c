"""mmkerv registers its operators when mmengine is imported, whichever comes first."""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from mmkerv.import_hook import after_import

ROOT = Path(__file__).resolve().parent.parent
FIRST = """
import sys
from importlib.util import find_spec
import mmkerv
assert 'mmengine' not in sys.modules and 'torch' not in sys.modules
assert find_spec('mmengine') and 'mmkerv.registry' not in sys.modules
import mmengine.fileio
assert 'mmkerv.registry' in sys.modules
"""
SECOND = """
import sys
import mmengine
import mmkerv
assert 'mmkerv.registry' in sys.modules
"""
DIRECTLY = """
import sys
import mmkerv.registry
"""
AFTER = """
from mmengine.registry import MODELS
from mmengine.config.utils import MODULE2PACKAGE
assert MODELS.get('CoCConv') is not None, MODELS.children
assert 'mmkerv' in MODULE2PACKAGE and 'mmkerv' in MODELS.children
assert not any(type(finder).__module__ == 'mmkerv.import_hook' for finder in sys.meta_path)
assert mmkerv.registry.OPERATORS
"""


@pytest.mark.parametrize('code', [FIRST, SECOND, DIRECTLY], ids=['mmkerv first', 'mmengine first', 'the registry'])
def test_operators_are_registered_in_either_order(code):
    pytest.importorskip('mmengine')
    command = [sys.executable, '-W', 'error:mmkerv registered nothing', '-c', code + AFTER]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, 'meta_path', list(sys.meta_path))
    monkeypatch.delitem(sys.modules, 'imported_later', raising=False)
    yield tmp_path / 'imported_later.py'
    sys.modules.pop('imported_later', None)


def test_the_function_is_called_once_and_after_the_module_has_run(module):
    module.write_text('value = 1\n')
    seen, finders = [], list(sys.meta_path)
    for _ in range(2):
        after_import('imported_later', lambda: seen.append(sys.modules['imported_later'].value))
    assert find_spec('imported_later').origin == str(module) and not seen
    import_module('imported_later')
    assert seen == [1, 1] and sys.meta_path == finders
    after_import('imported_later', lambda: seen.append(2))
    assert seen == [1, 1, 2]


def test_a_module_that_fails_can_be_imported_again(module):
    seen = []
    after_import('imported_later', lambda: seen.append(1))
    module.write_text('1 / 0\n')
    with pytest.raises(ZeroDivisionError):
        import_module('imported_later')
    assert not seen
    module.write_text('value = 123\n')
    import_module('imported_later')
    assert seen == [1]


def test_a_module_that_is_not_there_is_not_found(module):
    after_import('imported_later', lambda: None)
    assert find_spec('imported_later') is None
    with pytest.raises(ModuleNotFoundError):
        import_module('imported_later')
