import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / 'requirements' / 'mmcv_build.py'


@pytest.fixture(scope='session')
def mmcv_build():
    """The module requirements/mmcv_build.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location('mmcv_build', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.modules['mmcv_build'] = module
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module
