import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmkerv import distributions, env, gpus, install_advice
from mmkerv.distributions import LIBRARIES, OPTIONAL, TESTED, TESTED_LITE, TORCH
from mmkerv.errors import InstallationError
from mmkerv.version import __version__

ROOT = Path(__file__).resolve().parent.parent
ONEDL, OPENMMLAB = dict(TESTED['onedl'].values()), dict(TESTED['openmmlab'].values())
MODERN = {'torch': '2.11.0', 'numpy': '2.4.6'}
# Modules that are importable in a complete environment.
IMPORTABLE = (*LIBRARIES, 'torch', 'pip', 'pkg_resources', 'ftfy', 'regex')
CLASSIC = {'torch': '2.1.2+cpu', 'numpy': '1.26.4'}


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Function that replaces the installed packages and importable modules; mmcv's folder is real and empty."""

    def install(packages, modules=IMPORTABLE, ops=True):
        def version(name):
            if name not in packages:
                raise metadata.PackageNotFoundError(name)
            return packages[name]

        def find_spec(name):
            return SimpleNamespace(origin=str(tmp_path / name / '__init__.py')) if name in modules else None

        monkeypatch.setattr(distributions.metadata, 'version', version)
        for module in (distributions, env):
            monkeypatch.setattr(module, 'find_spec', find_spec)
        (tmp_path / 'mmcv').mkdir(exist_ok=True)
        if ops:
            (tmp_path / 'mmcv' / f'_ext{EXTENSION_SUFFIXES[0]}').touch()
        monkeypatch.setattr(env.importlib, 'import_module', lambda name: None)

    distributions.warn_untested.cache_clear()
    yield install
    distributions.warn_untested.cache_clear()


@pytest.mark.parametrize(
    'packages, expected',
    [
        ({}, 'none'),
        (ONEDL, 'onedl'),
        (OPENMMLAB, 'openmmlab'),
        ({'onedl-mmengine': '0.10.12'}, 'onedl'),
        ({'mmcv-lite': '2.2.0'}, 'openmmlab'),
        (ONEDL | {'mmdet': '3.3.0'}, 'mixture'),
        ({'onedl-mmcv': '2.3.6', 'mmcv-lite': '2.2.0'}, 'mixture'),
    ],
)
def test_installed_distribution_is_recognised(fake, packages, expected):
    fake(packages)
    assert distributions.distribution() == expected


@pytest.mark.parametrize('packages', [ONEDL | MODERN, OPENMMLAB | CLASSIC])
def test_complete_distribution_has_no_problem(fake, packages):
    fake(packages)
    assert env.problems() == []
    env.require(*LIBRARIES)


def test_no_distribution_lists_the_commands_of_both(fake):
    fake(MODERN, modules=('torch', 'pip'))
    (problem,) = env.problems()
    for library in LIBRARIES:
        assert library in problem.what
        for family in TESTED:
            assert '=='.join(TESTED[family][library]) in problem.command
    with pytest.raises(InstallationError, match=r'mmdet.*Two distributions'):
        env.require('mmdet')


def test_an_environment_that_is_not_active_is_named(fake, monkeypatch, tmp_path, capsys):
    """`python tools/train.py` before `source .venv/bin/activate` finds the system's Python."""
    fake({}, modules=('pip',))
    checkout = tmp_path / 'check out'
    for name in ('.venv', '.venv-openmmlab'):
        (checkout / name / 'bin').mkdir(parents=True)
        (checkout / name / 'bin' / 'activate').touch()
    monkeypatch.setattr(sys, 'prefix', sys.base_prefix)
    assert env.environment_beside(checkout) is None
    (checkout / '.venv' / 'lib' / 'python3.11' / 'site-packages' / 'mmengine').mkdir(parents=True)
    assert env.environment_beside(checkout) == checkout / '.venv'
    monkeypatch.setattr(env, 'environment_beside', lambda: checkout / '.venv')
    with pytest.raises(InstallationError) as caught:
        env.require('mmengine', 'mmcv')
    message = str(caught.value)
    assert '\n' not in message and message.startswith('the environment of this checkout is not active, and ')
    assert message.endswith(
        f"torch is not installed; not installed: mmengine, mmcv. Type: source '{checkout}/.venv/bin/activate'"
    )
    # The other fixes would install into the Python that was not meant.
    for libraries in ([], ['mmpretrain']):
        assert env.main(libraries) == 1
        report = capsys.readouterr().out.partition('\nproblem: ')[2]
        assert report.startswith(
            f'the environment of this checkout is not active, and {sys.executable} cannot run this'
        )
        assert report.endswith(f"mmpretrain\n  fix: source '{checkout}/.venv/bin/activate'\n")
        assert 'problem:' not in report and ' install ' not in report and '==' not in report
    monkeypatch.setattr(sys, 'prefix', str(tmp_path / 'another'))
    monkeypatch.undo()
    if sys.prefix != sys.base_prefix:
        assert env.environment_beside(checkout) is None, 'the user has chosen another environment'


def test_a_python_that_has_the_libraries_is_mended_beside_an_environment(fake, monkeypatch, tmp_path, capsys):
    fake(ONEDL | MODERN | {'mmdet': '3.3.0'})
    monkeypatch.setattr(env, 'environment_beside', lambda: tmp_path / '.venv')
    assert env.main([]) == 1
    report = capsys.readouterr().out
    assert 'mixed' in report and ' uninstall ' in report and 'activate' not in report


def test_missing_torch_is_the_only_problem_reported(fake):
    fake(ONEDL, modules=(*LIBRARIES, 'pip'), ops=False)
    (problem,) = env.problems()
    assert problem.what == 'torch is not installed'
    assert f'torch=={TORCH["onedl"]["torch"]}' in problem.command


def test_missing_library_is_taken_from_the_installed_distribution(fake):
    packages = {name: version for name, version in (OPENMMLAB | CLASSIC).items() if name != 'mmsegmentation'}
    fake(packages, modules=[module for module in IMPORTABLE if module != 'mmseg'])
    (problem,) = env.problems('mmseg')
    assert 'mmseg' in problem.what and 'mmdet' not in problem.what
    assert problem.command == f'{sys.executable} -m pip install mmsegmentation==1.2.2'
    assert env.problems('mmdet') == []


def test_an_optional_library_is_a_problem_only_if_it_is_asked_for(fake):
    fake(ONEDL | MODERN)
    assert env.problems() == [] and 'mmrotate' not in str(env.collect_env())
    (problem,) = env.problems('mmrotate')
    assert problem.command == f'{sys.executable} -m pip install onedl-mmrotate==1.2.1'
    fake(ONEDL | MODERN | {'onedl-mmrotate': '1.2.1'}, modules=(*IMPORTABLE, 'mmrotate'))
    assert env.problems('mmrotate') == []
    assert 'onedl-mmrotate 1.2.1 (tested)' in str(env.collect_env())
    without = {name: version for name, version in (ONEDL | MODERN).items() if name != 'onedl-mmdetection'}
    fake(without | {'onedl-mmrotate': '1.2.1'}, modules=('mmrotate', *(name for name in IMPORTABLE if name != 'mmdet')))
    (problem,) = env.problems('mmrotate')
    assert problem.command == f'{sys.executable} -m pip install onedl-mmdetection==3.5.1'
    fake(OPENMMLAB | CLASSIC)
    (problem,) = env.problems('mmrotate')
    assert 'the distribution openmmlab has no version' in problem.what


def test_an_optional_library_without_a_distribution_is_offered_from_onedl(fake):
    fake(MODERN, modules=('torch', 'pip'))
    missing = [problem for problem in env.problems('mmrotate') if 'mmrotate' in problem.what]
    assert 'onedl-mmrotate==1.2.1' in missing[0].command and 'openmmlab:' not in missing[0].command


@pytest.mark.parametrize(
    'packages, kept, dropped', [(ONEDL | MODERN | {'mmdet': '3.3.0'}, 'onedl', 'openmmlab'),
                                (OPENMMLAB | CLASSIC | {'onedl-mmcv': '2.3.6'}, 'openmmlab', 'onedl')]
)  # fmt: skip
def test_mixture_is_fixed_by_the_distribution_that_suits_torch(fake, packages, kept, dropped):
    fake(packages)
    (problem,) = env.problems('mmdet')
    remove, *install = problem.command.split(' && ')
    assert 'uninstall -y' in remove
    assert {name for name in packages if name in ONEDL | OPENMMLAB} <= set(remove.split())
    assert (
        '=='.join(TESTED[kept]['mmdet']) in install[-1]
        and '=='.join(TESTED[dropped]['mmdet']) not in install[-1].split()
    )
    with pytest.raises(InstallationError, match='mixed'):
        env.require('mmdet')


@pytest.mark.parametrize('family, lite', [('onedl', 'onedl-mmcv-lite'), ('openmmlab', 'mmcv-lite'), ('onedl', None)])
def test_mmcv_without_operators_is_reinstalled(fake, family, lite):
    packages = dict(TESTED[family].values()) | (MODERN if family == 'onedl' else CLASSIC)
    name, version = TESTED[family]['mmcv']
    if lite:
        packages[lite] = packages.pop(name)
    fake(packages, ops=False)
    (problem,) = env.problems('mmdet')
    assert 'compiled operators of mmcv are missing' in problem.what
    assert (f'uninstall -y {lite} ' in problem.command) == bool(lite)
    last = problem.command.split(' && ')[-1]
    assert {'--force-reinstall', '--no-build-isolation', '--no-cache-dir', f'{name}=={version}'} <= set(last.split())
    # Classification works without them.
    assert env.problems('mmpretrain') == env.problems('mmengine', 'mmcv') == []
    assert [problem.what for problem in env.problems('mmseg')] == [problem.what]
    with pytest.raises(InstallationError, match='compiled operators'):
        env.require('mmdet')


@pytest.mark.parametrize(
    'message, command',
    [
        ('undefined symbol: _ZN3c10', '--no-build-isolation'),
        ('libGL.so.1: cannot open shared object file', 'opencv-python-headless'),
        ("No module named 'yapf'", 'pip install onedl-mmcv==2.3.6'),
    ],
)
def test_mmcv_whose_operators_do_not_load_is_fixed_by_cause(fake, monkeypatch, message, command):
    def import_module(name):
        if name == 'mmcv._ext':
            raise ImportError(message)

    fake(ONEDL | MODERN)
    monkeypatch.setattr(env.importlib, 'import_module', import_module)
    (problem,) = env.problems('mmdet')
    assert message in problem.what and command in problem.command


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """Function that puts GPUs of some compute capabilities into this machine; torch need not see them."""

    def plug(*capabilities, hidden=False, message='the driver is too old\nsecond line'):
        torch = pytest.importorskip('torch')
        monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
        # Not an environment of `make setup`.
        monkeypatch.setattr(sys, 'prefix', str(tmp_path / 'environment'))
        monkeypatch.setattr(torch.version, 'cuda', '13.0')
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: bool(capabilities) and not hidden)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, 'get_device_name', lambda index: f'GPU {index}')
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda index: capabilities[index])

        def init():
            raise RuntimeError(message)

        monkeypatch.setattr(torch.cuda, 'init', init)
        found = gpus.Driver('580.95', tuple(f'GPU {index}' for index in range(len(capabilities))))
        monkeypatch.setattr(gpus, 'driver', lambda: found)
        monkeypatch.setattr(env, 'driver', lambda: found)

    return plug


@pytest.mark.parametrize(
    'capabilities, code, libraries, lacking',
    [
        ([(9, 0)], (), (), 'GPU 0 (9.0)'),
        ([(9, 0)], (), ('mmdet',), 'GPU 0 (9.0)'),
        ([(9, 0)], (), ('mmpretrain',), None),
        ([(9, 0)], ('sm_90',), (), None),
        ([(9, 0)], ('sm_80',), (), 'GPU 0 (9.0)'),
        ([(9, 0)], ('sm_80', 'compute_80'), (), None),
        ([(8, 6), (12, 0)], ('sm_80',), (), 'GPU 1 (12.0)'),
        ([], (), (), None),
    ],
)
def test_mmcv_compiled_for_other_devices_is_reported(
    fake, gpu, monkeypatch, capsys, capabilities, code, libraries, lacking
):
    fake(ONEDL | MODERN | {'cuda-toolkit': '13.0.2'})
    gpu(*capabilities)
    monkeypatch.setattr(env, 'device_code', lambda file: code)
    assert env.main(libraries) == (lacking is not None)
    report = capsys.readouterr().out
    assert f'mmcv operators  available, for {", ".join(["CPUs", *code])}' in report
    if capabilities:
        assert 'GPU 0 (' in report and 'NVIDIA driver   580.95, for GPU 0' in report
    problem = report.partition('problem: ')[2]
    if lacking:
        assert f'operators of mmcv are for {", ".join(["CPUs", *code])}, not for {lacking};' in problem
        architectures = ';'.join('.'.join(map(str, capability)) for capability in capabilities)
        assert f'TORCH_CUDA_ARCH_LIST={shlex.quote(architectures)}' in problem and 'FORCE_CUDA=1' in problem
        for part in (
            "'cuda-toolkit[nvcc,nvvm,crt,cccl]==13.0.2'",
            'libcudart.so.13',
            'onedl-mmcv==2.3.6',
            'CUDA_HOME=',
        ):
            assert part in problem
    # Segmentation and classification work, so tools do not refuse.
    env.require('mmdet')


def test_an_environment_of_make_setup_is_set_up_again_for_its_gpu(fake, gpu, monkeypatch, tmp_path, capsys):
    fake(ONEDL | MODERN)
    gpu((9, 0))
    root = tmp_path / 'check out'
    (root / 'requirements').mkdir(parents=True)
    (root / 'requirements' / 'install.sh').touch()
    monkeypatch.setattr(sys, 'prefix', str(root / '.venv'))
    assert env.main([]) == 1
    assert f"fix: cd '{root}' && rm -f .venv/.ready && make setup\n" in capsys.readouterr().out


def test_cuda_12_asks_for_a_toolkit_of_the_system(fake, gpu, capsys):
    fake(OPENMMLAB | CLASSIC)
    gpu((9, 0))
    assert env.main([]) == 1
    report = capsys.readouterr().out
    assert 'env CUDA_HOME=FOLDER_OF_A_TOOLKIT' in report and 'mmcv==2.1.0' in report and 'cuda-toolkit[' not in report


def test_a_gpu_that_torch_cannot_use_is_reported(fake, gpu, monkeypatch, capsys):
    fake(ONEDL | MODERN, ops=False)
    gpu((7, 0), hidden=True)
    assert env.main(['mmpretrain']) == 1
    report = capsys.readouterr().out
    assert (
        'nvidia-smi lists GPU 0 with driver 580.95, which torch of CUDA 13.0 cannot use: the driver is too ' in report
    )
    assert 'second line' not in report
    # To hide the GPUs is the user's choice.
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    assert env.main(['mmpretrain']) == 0


@pytest.mark.parametrize(
    'output, status, expected',
    [
        ('580.95.05, NVIDIA H200\n580.95.05, NVIDIA H200\n', 0, ('580.95.05', ('NVIDIA H200', 'NVIDIA H200'))),
        ('NVIDIA-SMI has failed because it could not communicate with the driver, is it running?\n', 9, (None, ())),
        ('No devices were found\n', 0, (None, ())),
    ],
)
def test_the_driver_is_read_from_nvidia_smi(monkeypatch, tmp_path, output, status, expected):
    command = tmp_path / 'nvidia-smi'
    command.write_text(f"#!/bin/sh\nprintf '%s' '{output}'\nexit {status}\n")
    command.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path))
    assert gpus.driver() == gpus.Driver(*expected)
    command.unlink()
    assert gpus.driver() == gpus.Driver()


@pytest.mark.parametrize('packages, family', [({}, None), (ONEDL | MODERN, 'onedl')])
def test_windows_is_told_of_the_compiled_mmcv(fake, monkeypatch, packages, family):
    fake(packages, ops=False, modules=IMPORTABLE if family else ('torch', 'pip'))
    assert not any(distributions.READY_MMCV in str(problem) for problem in env.problems('mmdet'))
    monkeypatch.setattr(sys, 'platform', 'win32')
    (problem,) = [problem for problem in env.problems('mmdet') if 'mmcv' in problem.what]
    assert f'{distributions.READY_MMCV} (torch 2.8 of CUDA 12.8' in problem.what and 'Python 3.10' in problem.what


def test_package_whose_files_are_gone_is_installed_again(fake):
    fake(ONEDL | MODERN, modules=('torch', 'pip', 'mmengine', 'mmcv', 'mmseg', 'mmpretrain'))
    (problem,) = env.problems()
    assert 'files are gone: mmdet' in problem.what
    assert problem.command.endswith('install --force-reinstall --no-deps onedl-mmdetection==3.5.1')


def test_missing_companions_of_openmmlab_are_reported(fake):
    fake(OPENMMLAB | {'torch': '2.1.2', 'numpy': '2.0.0'}, modules=(*LIBRARIES, 'torch', 'pip'), ops=False)
    requirements = [problem.command.split(' install ')[1] for problem in env.problems()]
    assert requirements == ["'numpy<2'", "'setuptools<81'", 'ftfy', 'regex']


def test_command_without_pip_uses_uv(fake):
    fake({}, modules=())
    assert install_advice.pip('uninstall', '-y', 'mmcv') == f'uv pip uninstall --python {sys.executable} mmcv'


def test_checkout_without_package_counts_as_installed(fake):
    fake(MODERN)
    assert env.problems('mmdet') == []
    assert distributions.distribution() == 'none'
    assert 'of no installed package' in str(env.collect_env())


@pytest.mark.parametrize('check', [env.problems, env.require])
def test_unknown_library_is_refused(check):
    with pytest.raises(ValueError, match=r"out of mmengine, mmcv.*got 'mmcls'"):
        check('mmdet', 'mmcls')


@pytest.mark.parametrize(
    'packages, expected',
    [
        (ONEDL | {'onedl-mmcv': '2.4.0'}, r'not tested with onedl-mmcv 2\.4\.0 \(tested: onedl-mmcv 2\.3\.6\)$'),
        ({'mmcv-lite': '2.2.0'}, r'mmcv-lite 2\.2\.0 \(tested: mmcv-lite 2\.1\.0\)'),
        (ONEDL | {'mmcv': '2.1.0'}, r'mixed.*python -m mmkerv\.env'),
    ],
)
def test_untested_versions_warn_once(fake, packages, expected):
    fake(packages)
    with pytest.warns(UserWarning, match=expected) as record:
        distributions.warn_untested()
        distributions.warn_untested()
    assert len(record) == 1


@pytest.mark.parametrize('packages', [{}, ONEDL, OPENMMLAB, OPENMMLAB | {'mmcv': '2.1.0+cu121'}])
def test_tested_versions_do_not_warn(fake, packages):
    fake(packages)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        distributions.warn_untested()


def test_environment_of_the_tests_has_no_problem():
    if distributions.distribution() == 'none':
        pytest.skip('no OpenMMLab library installed')
    assert env.problems() == []
    found = env.collect_env()
    assert found.distribution in TESTED
    packages = {(package.name, package.version) for package in found.packages}
    assert packages - set(OPTIONAL[found.distribution].values()) == set(TESTED[found.distribution].values())
    assert found.mmcv_ops == 'available'
    assert found.torch.partition('+')[0] == TORCH[found.distribution]['torch']


def test_main_reports_and_fails_on_a_problem(fake, capsys):
    fake(ONEDL | MODERN)
    assert env.main([]) == 0
    report = capsys.readouterr().out
    assert f'mmkerv          {__version__}' in report and 'onedl-mmdetection 3.5.1 (tested)' in report
    assert report.endswith('no problem found\n')
    fake(ONEDL | MODERN | {'mmdet': '3.3.0'})
    assert env.main([]) == 1
    assert re.search(r'problem: .*mixed.*\n  fix: .*uninstall', capsys.readouterr().out)
    with pytest.raises(SystemExit) as exit_info:
        env.main(['mmcls'])
    assert exit_info.value.code == 2


def run_python(*arguments, path):
    return subprocess.run(
        [sys.executable, '-S', *arguments], capture_output=True, text=True, env=os.environ | {'PYTHONPATH': str(path)}
    )


def test_command_works_without_any_library():
    # -S hides site-packages.
    done = run_python('-W', 'error', '-m', 'mmkerv.env', path=ROOT)
    assert done.returncode == 1, done.stderr
    assert 'distribution    none' in done.stdout and 'torch is not installed' in done.stdout


def test_command_reads_real_metadata_of_both_distributions(tmp_path):
    for name, version in (('onedl-mmcv', '2.3.6'), ('mmcv', '2.1.0')):
        folder = tmp_path / f'{name.replace("-", "_")}-{version}.dist-info'
        folder.mkdir()
        (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
    done = run_python('-m', 'mmkerv.env', path=f'{ROOT}{os.pathsep}{tmp_path}')
    assert done.returncode == 1, done.stderr
    assert 'distribution    mixture' in done.stdout
    assert 'onedl-mmcv 2.3.6 (tested) and mmcv 2.1.0 (tested)' in done.stdout


@pytest.mark.parametrize('module', ['mmkerv.env', 'mmkerv.distributions'])
def test_import_loads_no_library(module):
    code = f'import sys, {module}; print([name for name in {LIBRARIES[1:]} if name in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == '[]\n', done.stderr


@pytest.mark.parametrize('family', TESTED)
def test_pins_and_extras_agree_with_the_table(family):
    pins = dict(TESTED[family].values()) | TORCH[family]
    for file in (ROOT / 'requirements' / f'{family}.in', ROOT / 'requirements' / f'{family}.txt'):
        found = dict(re.findall(r'^([\w-]+)==([\w.]+)', file.read_text(), re.MULTILINE))
        assert {name: found.get(name) for name in pins} == pins, file.name
    extra = re.search(rf'^{family} = \[(.*?)^\]', (ROOT / 'pyproject.toml').read_text(), re.MULTILINE | re.DOTALL)[1]
    assert dict(re.findall(r'"([\w-]+)>=([\w.]+)', extra)) == dict(TESTED[family].values())


def test_the_extra_without_compiled_operators_agrees_with_the_table():
    text = (ROOT / 'pyproject.toml').read_text()
    extra = re.search(r'^classification = \[(.*?)^\]', text, re.MULTILINE | re.DOTALL)[1]
    found = dict(re.findall(r'"([\w-]+)>=([\w.]+)', extra))
    packages = {TESTED_LITE[0]: 'mmcv', 'mmengine': 'mmengine', 'mmpretrain': 'mmpretrain'}
    assert found == {name: TESTED['openmmlab'][library][1] for name, library in packages.items()}


@pytest.mark.slow
def test_classification_runs_without_compiled_operators(tmp_path):
    """The whole road with an mmcv of which the compiled library is missing, as mmcv-lite is."""
    for library in ('mmcv', 'mmpretrain', 'mmseg'):
        pytest.importorskip(library)
    from mmkerv.datasets.shapes import ShapesSettings, write_shapes

    installed = Path(importlib.util.find_spec('mmcv').origin).parent
    shutil.copytree(installed, tmp_path / 'lite' / 'mmcv', ignore=shutil.ignore_patterns('_ext*', '__pycache__'))
    write_shapes(tmp_path / 'data', ShapesSettings(num_train=4, num_val=4, size=32), progress=False)

    def mmkerv(*words):
        path = os.pathsep.join([str(tmp_path / 'lite'), str(ROOT)])
        env = {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}
        command = [sys.executable, '-m', 'mmkerv', *map(str, words)]
        return subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path)

    configs, data = ROOT / 'configs' / 'demo', f'data_root={tmp_path / "data"}'
    options = ('--max-iters', 2, '--work-dir', 'work', '--cfg-options', data, 'train_dataloader.num_workers=0')
    done = mmkerv('train', configs / 'resnet18_coc_shapes.py', *options)
    assert done.returncode == 0, done.stderr
    for words in (('test', 'work'), ('fold', 'work', 'deploy.pth'), ('test', 'deploy.py', 'deploy.pth')):
        done = mmkerv(*words)
        assert done.returncode == 0, done.stderr
    done = mmkerv('train', configs / 'fcn_shapes.py', '--work-dir', 'other')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'the compiled operators of mmcv are missing' in done.stderr and 'fix: ' in done.stderr


def test_the_extra_of_optional_libraries_agrees_with_the_table():
    extra = re.search(r'^rotate = \[(.*?)\]', (ROOT / 'pyproject.toml').read_text(), re.MULTILINE)[1]
    assert dict(re.findall(r'"([\w-]+)>=([\w.]+)', extra)) == dict(OPTIONAL['onedl'].values())
