"""The trial of nvcc, with scripts in its place."""

import os
import sys

import pytest

from mmkerv.errors import InstallationError

NVCC = """#!/bin/sh
case "$1" in
  --version) echo 'Cuda compilation tools, release {release}, V{release}.88' ;;
  --list-gpu-arch) printf 'compute_80\\ncompute_90\\ncompute_120\\n' ;;
  *) {compile} ;;
esac
"""


@pytest.fixture
def home(tmp_path):
    """Function that makes a folder with an nvcc of a version, which runs a command to compile."""

    def make(release='13.0', compile='exit 0'):
        nvcc = tmp_path / 'bin' / 'nvcc'
        nvcc.parent.mkdir(exist_ok=True)
        nvcc.write_text(NVCC.format(release=release, compile=compile))
        nvcc.chmod(0o755)
        return tmp_path

    return make


def test_a_toolkit_that_works_is_returned(mmcv_build, home):
    folder = home()
    assert mmcv_build.toolkit('8.0;9.0a;12.0+PTX', '13.0', {'CUDA_HOME': str(folder)}) == folder


def test_nvcc_on_the_path_is_found_for_cuda_12(mmcv_build, home):
    folder = home(release='12.1')
    assert mmcv_build.toolkit('9.0', '12.1', {'PATH': str(folder / 'bin')}) == folder.resolve()


def test_a_folder_without_nvcc_is_refused(mmcv_build, tmp_path):
    with pytest.raises(InstallationError, match=r'bin/nvcc does not exist; set CUDA_HOME'):
        mmcv_build.toolkit('9.0', '13.0', {'CUDA_HOME': str(tmp_path)})


def test_another_cuda_version_is_refused(mmcv_build, home):
    with pytest.raises(InstallationError, match=r'of CUDA 12\.4, torch of CUDA 13\.0'):
        mmcv_build.toolkit('9.0', '13.0', {'CUDA_HOME': str(home(release='12.4'))})


def test_an_architecture_that_nvcc_does_not_know_is_refused(mmcv_build, home):
    with pytest.raises(InstallationError, match=r'does not compile for compute_70, only for compute_80, .*TORCH_CUDA'):
        mmcv_build.toolkit('7.0;9.0', '13.0', {'CUDA_HOME': str(home())})


def test_the_message_of_a_trial_that_fails_is_shown(mmcv_build, home):
    folder = home(compile='echo "unsupported GNU version" >&2; exit 1')
    with pytest.raises(InstallationError, match='failed:\nunsupported GNU version'):
        mmcv_build.toolkit('9.0', '13.0', {'CUDA_HOME': str(folder)})


@pytest.mark.skipif(sys.platform != 'linux', reason='the package index has nvcc for Linux')
def test_the_runtime_of_the_package_gets_the_name_that_the_linker_looks_for(mmcv_build, home, monkeypatch):
    folder = home()
    (folder / 'nvidia').mkdir()
    (folder / 'nvidia' / 'cu13').symlink_to(folder)
    (folder / 'lib').mkdir()
    (folder / 'lib' / 'libcudart.so.13').touch()
    monkeypatch.setattr(mmcv_build.sysconfig, 'get_path', lambda name: str(folder))
    for _ in range(2):
        assert mmcv_build.toolkit('9.0', '13.0', {}) == folder / 'nvidia' / 'cu13'
        assert os.readlink(folder / 'lib' / 'libcudart.so') == 'libcudart.so.13'
