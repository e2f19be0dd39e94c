"""install.sh with scripts in place of uv and of the environment's Python: which commands it runs, in which order."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLAN_CPU = 'cpu\n\n\n4\nmmcv is compiled for CPUs: about 2 minutes\n'
COMPILER = 'cuda-toolkit[nvcc,nvvm,crt,cccl]==13.0.2'
PLAN_CUDA = f'cuda13.0-sm_90\n9.0\n{COMPILER}\n4\nmmcv is compiled for CUDA 13.0: about 9 minutes\n'
# The arguments and the variables that matter go into a file; the exit status comes from a file of the command's name.
UV = """#!/bin/sh
echo "uv $* [${FORCE_CUDA:-} ${CUDA_HOME:-} ${TORCH_CUDA_ARCH_LIST:-} ${MAX_JOBS:-}]" >> log
case "$*" in
  *--offline*--requirements*) cat offline.err >&2; exit "$(cat offline.status)" ;;
  *--requirements*) exit "$(cat online.status)" ;;
esac
"""
PYTHON = """#!/bin/sh
case "$1" in
  requirements/mmcv_build.py)
    echo "$*" >> log
    if [ "$2" = has ] && [ ! -e has.first ]; then touch has.first; cat has.answer; exit "$(cat has.status)"; fi
    if [ -e "$2.answer" ] && [ "$2" != has ]; then cat "$2.answer"; fi
    if [ -e "$2.error" ]; then cat "$2.error" >&2; exit 1; fi
    if [ "$2" = has ] && [ -e last.answer ]; then cat last.answer; exit 1; fi ;;
  *) case "$*" in *importlib.metadata*) exit "$(cat installed.status)" ;; esac ;;
esac
"""


class Checkout:
    """A folder with install.sh and the scripts that stand for uv and Python."""

    def __init__(self, folder):
        self.folder = folder
        (folder / 'requirements').mkdir()
        for name in ('install.sh', 'uv.sh', 'onedl.txt', 'openmmlab.txt'):
            shutil.copy(ROOT / 'requirements' / name, folder / 'requirements' / name)
        self.script('bin/uv', UV)
        self.script('bin/compiler', '#!/bin/sh\ncat > /dev/null\n')
        self.script('.venv/bin/python', PYTHON)
        self.answer('plan.answer', PLAN_CPU)
        self.answer('has.answer', 'onedl-mmcv is not installed')
        for name, status in {'has': 1, 'installed': 1, 'offline': 0, 'online': 0}.items():
            self.answer(f'{name}.status', str(status))
        self.answer('offline.err', '')

    def script(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def answer(self, name, text):
        (self.folder / name).write_text(text)

    def run(self, *arguments, **variables):
        """Run install.sh; the log has a line for each command of uv and of mmcv_build.py."""
        clean = {name: value for name, value in os.environ.items() if name not in ('CXX', 'MAX_JOBS', 'CUDA_HOME')}
        path = f'{self.folder / "bin"}{os.pathsep}{os.environ["PATH"]}'
        env = {**clean, 'PATH': path, 'CXX': 'compiler', **variables}
        command = ['bash', 'requirements/install.sh', *(arguments or ('onedl', '.venv', '>=3.10'))]
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True)
        log = self.folder / 'log'
        done.log = log.read_text().splitlines() if log.exists() else []
        done.log = [line for line in done.log if not line.startswith('uv cache dir')]
        return done


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def place(log, *words):
    """Return the position of the only line with all words."""
    (found,) = [index for index, line in enumerate(log) if all(word in line for word in words)]
    return found


def test_for_cpus_torch_comes_first_and_no_compiler_of_cuda(checkout):
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    order = [
        place(done.log, 'pip install --offline', '--constraints requirements/onedl.txt torch numpy'),
        place(done.log, 'mmcv_build.py plan'),
        place(done.log, 'pip install --offline', '--requirements requirements/onedl.txt [   4]'),
        place(done.log, '--editable .'),
    ]
    assert order == sorted(order)
    text = '\n'.join(done.log)
    assert not any(word in text for word in ('cuda-toolkit', 'toolkit', 'config-settings', 'uninstall', 'find', 'keep'))
    assert 'mmcv is compiled for CPUs: about 2 minutes.\n' in done.stdout


def test_for_gpus_the_compiler_comes_before_mmcv_and_the_cache_is_told_the_target(checkout):
    checkout.answer('plan.answer', PLAN_CUDA)
    checkout.answer('toolkit.answer', '/site packages/nvidia/cu13\n')
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    compiler = place(done.log, 'pip install --offline', COMPILER)
    mmcv = place(done.log, '--requirements', '--config-settings-package onedl-mmcv:target=cuda13.0-sm_90')
    assert compiler < place(done.log, 'mmcv_build.py toolkit 9.0') < mmcv
    assert done.log[mmcv].endswith('[1 /site packages/nvidia/cu13 9.0 4]')
    assert 'about 9 minutes' in done.stdout


def test_an_error_of_the_toolkit_stops_before_anything_is_compiled(checkout):
    checkout.answer('plan.answer', PLAN_CUDA)
    checkout.answer('toolkit.error', 'error: nvcc fails\n')
    done = checkout.run()
    assert done.returncode == 1 and done.stderr.endswith('error: nvcc fails\n')
    assert '--requirements' not in '\n'.join(done.log)


def test_an_mmcv_for_other_devices_is_installed_again(checkout):
    checkout.answer('has.answer', 'it has code for CPUs, not for sm_90')
    checkout.answer('installed.status', '0')
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    assert 'mmcv is installed again: it has code for CPUs, not for sm_90.' in done.stdout
    assert place(done.log, 'pip uninstall --quiet onedl-mmcv') < place(done.log, '--requirements')


def test_an_mmcv_that_serves_is_kept(checkout):
    checkout.answer('has.status', '0')
    checkout.answer('installed.status', '0')
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    assert 'mmcv is there, compiled for cpu.' in done.stdout and 'uninstall' not in '\n'.join(done.log)


def test_a_build_that_fails_is_not_tried_twice(checkout):
    checkout.answer('offline.status', '1')
    checkout.answer('offline.err', 'Call to `setuptools.build_meta.build_wheel` failed (exit status: 1)\nnms.cpp:1\n')
    done = checkout.run()
    assert done.returncode == 1 and 'nms.cpp:1' in done.stderr and 'mmcv could not be compiled' in done.stderr
    assert len([line for line in done.log if '--requirements' in line]) == 1


def test_what_the_cache_lacks_is_downloaded(checkout):
    checkout.answer('offline.status', '1')
    checkout.answer('offline.err', 'torch was not found in the cache\n')
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.log if '--requirements' in line]) == 2
    checkout.answer('online.status', '1')
    assert checkout.run().returncode == 1


def test_an_mmcv_that_does_not_serve_in_the_end_is_an_error(checkout):
    checkout.answer('last.answer', 'its operators do not load: undefined symbol')
    done = checkout.run()
    assert done.returncode == 1
    assert 'mmcv does not serve cpu: its operators do not load: undefined symbol' in done.stderr
    assert 'requirements/uv.sh cache clean onedl-mmcv' in done.stderr


def test_a_kept_wheel_is_installed_before_the_rest(checkout, tmp_path):
    checkout.answer('find.answer', '/wheels/key\n')
    done = checkout.run(MMKERV_WHEELS='/wheels')
    assert done.returncode == 0, done.stderr
    wheel = place(done.log, 'pip install --no-index', '--find-links /wheels/key', 'onedl-mmcv==2.3.6')
    assert wheel < place(done.log, '--requirements')
    assert 'mmcv is taken from /wheels/key.' in done.stdout and 'keep' not in '\n'.join(done.log)


def test_without_a_kept_wheel_the_compiled_one_is_kept(checkout):
    done = checkout.run(MMKERV_WHEELS='wheels')
    assert done.returncode == 0, done.stderr
    assert place(done.log, '--requirements') < place(done.log, 'mmcv_build.py keep cpu onedl-mmcv==2.3.6')
    assert 'no-index' not in '\n'.join(done.log)


def test_a_refused_wheel_stops_the_set_up(checkout):
    checkout.answer('find.error', 'error: /wheels/key/a.whl is damaged\n')
    done = checkout.run(MMKERV_WHEELS='/wheels')
    assert done.returncode == 1 and done.stderr.endswith('a.whl is damaged\n')
    assert '--requirements' not in '\n'.join(done.log)


@pytest.mark.parametrize('environment', ['.venv', '.venv-openmmlab'])
def test_the_last_line_activates_the_environment(checkout, environment):
    checkout.script(f'{environment}/bin/python', PYTHON)
    done = checkout.run('onedl', environment, '>=3.10')
    assert done.stdout.splitlines()[-1] == f'source {environment}/bin/activate'


def test_the_other_distribution_has_its_own_mmcv(checkout):
    done = checkout.run('openmmlab', '.venv', '>=3.10', MMKERV_WHEELS='/wheels')
    assert done.returncode == 0, done.stderr
    place(done.log, 'mmcv_build.py keep cpu mmcv==2.1.0')


def test_a_missing_compiler_is_named_with_the_commands_that_install_one(checkout):
    done = checkout.run(CXX='no-such-compiler')
    assert done.returncode == 1 and "tried 'no-such-compiler'" in done.stderr and 'apt-get install g++' in done.stderr


def test_wrong_arguments_are_refused(checkout):
    done = checkout.run('onedl')
    assert done.returncode == 2 and done.stderr.startswith('usage: ')
