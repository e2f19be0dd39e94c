"""Wheels of the compiled mmcv in MMKERV_WHEELS: kept, found again, and refused if damaged or foreign."""

import csv
import os
import sys
import zipfile
from importlib import metadata

import pytest

from mmkerv.errors import InstallationError
from tests.setup.test_device_code import SM, container

PACKAGE = 'onedl-mmcv==2.3.6'
INFO = 'onedl_mmcv-2.3.6.dist-info'


@pytest.fixture
def installed(tmp_path, monkeypatch, mmcv_build):
    """The site-packages of an environment with a small mmcv, whose operators hold code for 9.0."""
    site = tmp_path / 'site'
    files = {
        'mmcv/__init__.py': b'',
        'mmcv/_ext.so': b'ELF' + container((SM, 90)),
        f'{INFO}/METADATA': b'Metadata-Version: 2.1\nName: onedl-mmcv\nVersion: 2.3.6\n',
        f'{INFO}/WHEEL': b'Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp311-cp311-linux_x86_64\n',
        f'{INFO}/INSTALLER': b'uv',
        f'{INFO}/uv_build.json': b'{}',
    }
    rows = []
    for name, content in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(content)
        rows.append([name, mmcv_build.digest(content), len(content)])
    with (site / INFO / 'RECORD').open('w', newline='') as stream:
        csv.writer(stream).writerows([*rows, [f'{INFO}/RECORD', '', '']])
    monkeypatch.setattr(metadata, 'distribution', lambda name: metadata.PathDistribution(site / INFO))
    return site


@pytest.fixture
def wheel(installed, tmp_path, mmcv_build):
    return mmcv_build.keep(tmp_path / 'wheels', 'key', PACKAGE)


def damage(wheel, name, content):
    """Replace a file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    files[name] = content
    with zipfile.ZipFile(wheel, 'w') as archive:
        for path, data in files.items():
            archive.writestr(path, data)


def test_a_kept_wheel_holds_the_package_and_is_found_again(wheel, installed, tmp_path, mmcv_build):
    assert wheel == tmp_path / 'wheels' / 'key' / 'onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl'
    assert os.listdir(wheel.parent) == [wheel.name], 'nothing else is left there'
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert archive.read('mmcv/_ext.so') == (installed / 'mmcv' / '_ext.so').read_bytes()
    expected = {'mmcv/__init__.py', 'mmcv/_ext.so'} | {f'{INFO}/{name}' for name in ('METADATA', 'WHEEL', 'RECORD')}
    assert names == expected | {f'{INFO}/{mmcv_build.STAMP}'}
    assert mmcv_build.wheel_folder(tmp_path / 'wheels', 'key', PACKAGE) == wheel.parent
    assert mmcv_build.wheel_folder(tmp_path / 'wheels', 'another', PACKAGE) is None


def test_others_may_read_a_kept_wheel(wheel):
    mask = os.umask(0)
    os.umask(mask)
    assert wheel.stat().st_mode & 0o777 == 0o666 & ~mask


def test_keeping_twice_replaces_the_wheel(wheel, installed, tmp_path, mmcv_build):
    assert mmcv_build.keep(tmp_path / 'wheels', 'key', PACKAGE) == wheel
    assert os.listdir(wheel.parent) == [wheel.name]


def test_an_installed_file_that_was_edited_is_not_kept(installed, tmp_path, mmcv_build):
    (installed / 'mmcv' / '__init__.py').write_text('edited = True\n')
    with pytest.raises(InstallationError, match=r'__init__\.py is not as onedl-mmcv==2\.3\.6 installed it'):
        mmcv_build.keep(tmp_path / 'wheels', 'key', PACKAGE)


def spoil_truncated(wheel, mmcv_build):
    wheel.write_bytes(wheel.read_bytes()[:-30])


def spoil_empty(wheel, mmcv_build):
    wheel.write_bytes(b'')


def spoil_byte(wheel, mmcv_build):
    content = bytearray(wheel.read_bytes())
    content[content.index(b'_ext.so') + 12] ^= 0xFF
    wheel.write_bytes(content)


def spoil_file(wheel, mmcv_build):
    damage(wheel, 'mmcv/_ext.so', b'other')


def spoil_surplus(wheel, mmcv_build):
    damage(wheel, 'mmcv/surplus.py', b'')


def spoil_record(wheel, mmcv_build):
    damage(wheel, f'{INFO}/RECORD', b'\xff\xfe')


@pytest.mark.parametrize(
    'spoil',
    [spoil_truncated, spoil_empty, spoil_byte, spoil_file, spoil_surplus, spoil_record],
    ids=lambda f: f.__name__,
)
def test_a_damaged_wheel_is_refused(wheel, tmp_path, mmcv_build, spoil):
    spoil(wheel, mmcv_build)
    with pytest.raises(InstallationError, match=r'is damaged.*remove it') as caught:
        mmcv_build.wheel_folder(tmp_path / 'wheels', 'key', PACKAGE)
    assert str(wheel) in str(caught.value)


def test_a_wheel_for_something_else_is_refused(wheel, tmp_path, mmcv_build):
    wheel.parent.rename(tmp_path / 'wheels' / 'another')
    with pytest.raises(InstallationError, match=r'is foreign: it must be compiled for another, its key is key; remove'):
        mmcv_build.wheel_folder(tmp_path / 'wheels', 'another', PACKAGE)
    with pytest.raises(InstallationError, match='is foreign'):
        mmcv_build.check_wheel(tmp_path / 'wheels' / 'another' / wheel.name, 'key', 'onedl-mmcv==2.3.7')


def test_a_wheel_that_no_setup_kept_is_refused(wheel, tmp_path, mmcv_build):
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith(mmcv_build.STAMP)}
    files[f'{INFO}/RECORD'] = b''.join(
        line for line in files[f'{INFO}/RECORD'].splitlines(True) if mmcv_build.STAMP.encode() not in line
    )
    with zipfile.ZipFile(wheel, 'w') as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(InstallationError, match='not kept by a set-up of mmkerv'):
        mmcv_build.wheel_folder(tmp_path / 'wheels', 'key', PACKAGE)


def test_two_wheels_for_one_key_are_refused(wheel, tmp_path, mmcv_build):
    (wheel.parent / 'second.whl').touch()
    with pytest.raises(InstallationError, match='must hold one wheel, and holds 2'):
        mmcv_build.wheel_folder(tmp_path / 'wheels', 'key', PACKAGE)


def test_a_folder_that_cannot_be_written_is_refused_before_mmcv_is_compiled(tmp_path, mmcv_build):
    (tmp_path / 'file').touch()
    with pytest.raises(InstallationError, match='none can be written'):
        mmcv_build.wheel_folder(tmp_path / 'file', 'key', PACKAGE)
    assert mmcv_build.wheel_folder(tmp_path / 'new' / 'folder', 'key', PACKAGE) is None
    assert not (tmp_path / 'new').exists()


def test_the_key_names_what_the_wheel_depends_on(mmcv_build, monkeypatch):
    monkeypatch.setattr(metadata, 'version', lambda name: '2.11.0+cu130')
    key = mmcv_build.key('cuda13.0-sm_90', PACKAGE)
    python = f'{sys.version_info.major}{sys.version_info.minor}'
    assert key.startswith('onedl-mmcv-2.3.6-torch2.11.0+cu130-') and key.endswith('-cuda13.0-sm_90')
    assert python in key and '/' not in key


@pytest.mark.parametrize(
    'target, reason',
    [
        ('cpu', None),
        ('cuda13.0-sm_90', None),
        ('cuda13.0-sm_90a', None),
        ('cuda13.0-sm_80-sm_90', 'code for sm_90, not for sm_80'),
    ],
)
def test_an_installed_mmcv_serves_the_targets_it_has_code_for(
    installed, monkeypatch, mmcv_build, target, reason
):  # fmt: skip
    operators = type(sys)('mmcv._ext')
    operators.__file__ = str(installed / 'mmcv' / '_ext.so')
    monkeypatch.setattr(mmcv_build.importlib, 'import_module', lambda name: operators)
    monkeypatch.setattr(metadata, 'version', lambda name: '2.3.6')
    found = mmcv_build.lacking(target, PACKAGE)
    assert found is None if reason is None else reason in found


def test_an_mmcv_of_another_version_or_that_does_not_load_serves_nothing(monkeypatch, mmcv_build):
    def import_module(name):
        raise ImportError('undefined symbol')

    monkeypatch.setattr(metadata, 'version', lambda name: '2.3.5')
    assert 'onedl-mmcv 2.3.5 is installed' in mmcv_build.lacking('cpu', PACKAGE)
    monkeypatch.setattr(metadata, 'version', lambda name: '2.3.6')
    monkeypatch.setattr(mmcv_build.importlib, 'import_module', import_module)
    assert 'undefined symbol' in mmcv_build.lacking('cpu', PACKAGE)
