"""What install.sh relies on in uv, with a package that is built in no time in place of mmcv."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BACKEND = """
import os, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name, info = 'onedl_mmcv-2.3.6-py3-none-any.whl', 'onedl_mmcv-2.3.6.dist-info'
    with zipfile.ZipFile(os.path.join(folder, name), 'w') as wheel:
        wheel.writestr('mmcv/__init__.py', f'cuda = {os.environ.get("FORCE_CUDA")}')
        wheel.writestr(f'{info}/METADATA', 'Metadata-Version: 2.1\\nName: onedl-mmcv\\nVersion: 2.3.6\\n')
        wheel.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
        wheel.writestr(f'{info}/RECORD', '')
    return name
"""


def test_the_cache_keeps_a_wheel_for_each_target_and_ignores_variables(tmp_path):
    uv = shutil.which('uv') or ROOT / '.uv' / 'bin' / 'uv'
    if not Path(uv).is_file():
        pytest.skip('needs uv')
    source = tmp_path / 'onedl_mmcv-2.3.6'
    source.mkdir()
    (source / 'backend.py').write_text(BACKEND)
    (source / 'pyproject.toml').write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (source / 'PKG-INFO').write_text('Metadata-Version: 2.1\nName: onedl-mmcv\nVersion: 2.3.6\n')
    (tmp_path / 'links').mkdir()
    with tarfile.open(tmp_path / 'links' / 'onedl_mmcv-2.3.6.tar.gz', 'w:gz') as archive:
        archive.add(source, source.name)

    def install(target, **variables):
        """Install into an empty folder and return what the build saw."""
        shutil.rmtree(tmp_path / 'target', ignore_errors=True)
        settings = ['--config-settings-package', f'onedl-mmcv:target={target}'] if target else []
        where = ['--no-config', '--no-index', '--find-links', tmp_path / 'links', '--target', tmp_path / 'target']
        command = [uv, 'pip', 'install', '--python', sys.executable, *where, *settings, 'onedl-mmcv==2.3.6']
        env = {**os.environ, 'UV_CACHE_DIR': str(tmp_path / 'cache'), **variables}
        done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return (tmp_path / 'target' / 'mmcv' / '__init__.py').read_text()

    assert install('') == 'cuda = None'
    assert install('', FORCE_CUDA='1') == 'cuda = None', 'the variable alone gets the wheel for CPUs'
    assert install('cuda13.0-sm_90', FORCE_CUDA='1') == 'cuda = 1'
    assert install('cuda13.0-sm_90') == 'cuda = 1'
    assert install('') == 'cuda = None'
