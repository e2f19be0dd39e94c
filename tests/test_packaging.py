"""Builds the package as pip does, in a copy of the repository, with the setuptools that is installed here."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAYLOAD = ('tools', 'configs', 'model-index.yml')


@pytest.fixture
def checkout(tmp_path):
    pytest.importorskip('setuptools', minversion='64', reason='setuptools < 64 cannot build the package')
    copy = tmp_path / 'checkout'
    copy.mkdir()
    for name in ('mmkerv', 'tools', 'configs'):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns('__pycache__', '.mim', '*.so'))
    for name in (
        'setup.py',
        'pyproject.toml',
        'MANIFEST.in',
        'LICENSE',
        'README.md',
        'CHANGELOG.md',
        'model-index.yml',
    ):
        shutil.copy(ROOT / name, copy / name)
    return copy


def build(checkout, kind):
    """Call a hook of the build backend, as pip does; return the file it makes."""
    code = f'from setuptools import build_meta; print(build_meta.build_{kind}("dist"))'
    done = subprocess.run([sys.executable, '-c', code], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return checkout / 'dist' / done.stdout.splitlines()[-1]


def payload(checkout):
    """Map the files that `.mim` must hold to whether they are executable."""
    files = [checkout / 'model-index.yml', *checkout.glob('tools/**/*.*'), *checkout.glob('configs/**/*.*')]
    files = [file for file in files if file.is_file() and file.suffix in ('.py', '.sh', '.yml', '.md')]
    return {file.relative_to(checkout).as_posix(): os.access(file, os.X_OK) for file in files}


def wheel_mim(wheel):
    with zipfile.ZipFile(wheel) as archive:
        infos = [info for info in archive.infolist() if info.filename.startswith('mmkerv/.mim/')]
        return {info.filename.removeprefix('mmkerv/.mim/'): bool(info.external_attr >> 16 & 0o100) for info in infos}


def test_wheel_holds_mim_and_nothing_stale(checkout):
    config, module = checkout / 'configs' / 'deleted.py', checkout / 'mmkerv' / 'deleted.py'
    config.write_text('a = 1\n')
    module.write_text('a = 1\n')
    first = payload(checkout)
    wheel = build(checkout, 'wheel')
    assert wheel_mim(wheel) == first
    assert first['tools/dist_train.sh'] and not first['configs/deleted.py']
    assert {'mmkerv/deleted.py', 'mmkerv/cli/report/page.html.jinja'} <= set(zipfile.ZipFile(wheel).namelist())
    assert not (checkout / 'build').exists() and not (checkout / 'mmkerv' / '.mim').exists()

    config.unlink()
    module.unlink()
    wheel = build(checkout, 'wheel')
    assert wheel_mim(wheel) == {name: run for name, run in first.items() if name != 'configs/deleted.py'}
    assert 'mmkerv/deleted.py' not in zipfile.ZipFile(wheel).namelist()


def test_wheel_has_its_licence(checkout):
    with zipfile.ZipFile(build(checkout, 'wheel')) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith('.dist-info/METADATA')]
        assert 'License: Apache-2.0' in archive.read(metadata).decode()
        assert any(name.endswith('LICENSE') and '.dist-info/' in name for name in archive.namelist())


def test_command_of_the_wheel_works_in_any_folder(checkout, tmp_path):
    with zipfile.ZipFile(build(checkout, 'wheel')) as archive:
        (entries,) = [name for name in archive.namelist() if name.endswith('.dist-info/entry_points.txt')]
        module, function = archive.read(entries).decode().partition('mmkerv = ')[2].split()[0].split(':')
        archive.extractall(tmp_path / 'installed')
    env = {**os.environ, 'PYTHONPATH': str(tmp_path / 'installed')}
    # -S hides what is installed here.
    for words in (['-c', f'from {module} import {function}; {function}()'], ['-m', 'mmkerv']):
        for arguments in ([], ['train'], ['convert', 'dcls'], ['vis-kernel']):
            done = subprocess.run(
                [sys.executable, '-S', *words, *arguments, '-h'], cwd=tmp_path, env=env, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(' '.join(['usage: mmkerv', *arguments])), done.stdout


def test_sdist_holds_mim_and_builds_the_same_wheel(checkout):
    wheel = wheel_mim(build(checkout, 'wheel'))
    sdist = build(checkout, 'sdist')
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
        archive.extractall(checkout / 'unpacked')
    folder = names[0].split('/')[0]
    for name in wheel:
        assert f'{folder}/{name}' in names and f'{folder}/mmkerv/.mim/{name}' in names
    assert f'{folder}/mmkerv/cli/report/page.html.jinja' in names
    assert wheel_mim(build(checkout / 'unpacked' / folder, 'wheel')) == wheel


def test_editable_install_links_mim(checkout):
    mim = checkout / 'mmkerv' / '.mim'
    (mim / 'configs').mkdir(parents=True)
    (mim / 'configs' / 'stale_copy.py').touch()
    for _ in range(2):
        editable = build(checkout, 'editable')
        for name in PAYLOAD:
            assert (mim / name).is_symlink() and (mim / name).samefile(checkout / name)
    assert wheel_mim(editable) == {}
    # The links in the checkout must not end up in a wheel.
    assert wheel_mim(build(checkout, 'wheel')) == payload(checkout)


def test_editable_install_is_found_beside_the_checkout(checkout, tmp_path):
    """There the folder of the checkout has the name of the package, and Python sees a namespace package in it."""
    beside, installed = tmp_path / 'beside', tmp_path / 'installed'
    beside.mkdir()
    checkout = checkout.rename(beside / 'mmkerv')
    with zipfile.ZipFile(build(checkout, 'editable')) as archive:
        archive.extractall(installed)
    code = f'import site; site.addsitedir({str(installed)!r}); import mmkerv; print(mmkerv.__file__)'
    (beside / 'script.py').write_text(code)
    for words in (['script.py'], ['-c', code]):
        # -S hides what is installed here, -E what PYTHONPATH adds.
        done = subprocess.run([sys.executable, '-ES', *words], cwd=beside, capture_output=True, text=True)
        assert done.stdout.strip() == str(checkout / 'mmkerv' / '__init__.py'), done.stderr or done.stdout


@pytest.mark.skipif(not shutil.which('gcc'), reason='there is no gcc')
def test_wheel_holds_the_compiled_association_for_all_versions_of_python(checkout):
    wheel = build(checkout, 'wheel')
    assert '-cp310-abi3-' in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert 'mmkerv/ops/coc/_association.abi3.so' in names and 'mmkerv/ops/coc/_association.c' not in names


def test_wheel_is_built_without_a_compiler(checkout, monkeypatch):
    monkeypatch.setenv('CC', str(checkout / 'no_such_compiler'))
    names = zipfile.ZipFile(build(checkout, 'wheel')).namelist()
    assert 'mmkerv/ops/coc/compiled.py' in names and not any('_association.' in name for name in names)
