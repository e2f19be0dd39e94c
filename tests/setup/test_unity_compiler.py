"""requirements/unity-c++ compiles mmcv's small files together: what it builds, and what it leaves alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / 'requirements' / 'unity-c++'
pytestmark = pytest.mark.skipif(not shutil.which('c++'), reason='there is no C++ compiler')


@pytest.fixture
def sources(tmp_path):
    """The folders of mmcv's sources with small files: functions that return their number."""
    folder = tmp_path / 'csrc' / 'pytorch'
    for place, names in ((folder, range(11)), (folder / 'cpu', range(11, 14)), (folder / 'cuda', range(14, 16))):
        place.mkdir() if place != folder else place.mkdir(parents=True)
        for number in names:
            (place / f'f{number:02}.cpp').write_text(f'int f{number}() {{ return {number}; }}\n')
    (folder / 'cpu' / 'roi_align.cpp').write_text('static int clash() { return 99; }\nint f99() { return clash(); }\n')
    return folder


def build(sources, tmp_path):
    """Compile every file by the script and link all; return the commands of the compiler and the library."""
    log, compiler = tmp_path / 'log', tmp_path / 'c++-with-log'
    compiler.write_text(f'#!/bin/sh\necho "$@" >>{log}\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    objects = []
    for source in sorted(sources.rglob('*.cpp')):
        objects.append(tmp_path / f'{source.parent.name}_{source.stem}.o')
        command = [SCRIPT, '-MMD', '-MF', f'{objects[-1]}.d', '-fPIC', '-c', source, '-o', objects[-1]]
        subprocess.run(command, check=True, env={**os.environ, 'UNITY_CXX': str(compiler)})
        assert Path(f'{objects[-1]}.d').is_file()
    library = tmp_path / 'all.so'
    subprocess.run([SCRIPT, '-shared', *objects, '-o', library], check=True)
    return log.read_text().splitlines(), library


def numbers(library, count=16):
    names = [f'_Z{len(name)}{name}v' for name in (*(f'f{number}' for number in range(count)), 'f99')]
    code = f'import ctypes; lib = ctypes.CDLL({str(library)!r}); print(*(lib[name]() for name in {names}))'
    return subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout.split()


def test_files_are_compiled_in_groups_and_none_is_lost(sources, tmp_path):
    commands, library = build(sources, tmp_path)
    assert numbers(library) == [*map(str, range(16)), '99']
    # Eight and three files of the folder, three of cpu without roi_align; cuda and roi_align as they are.
    grouped = [file.read_text().count('#include') for file in sorted(tmp_path.glob('*.together.cpp'))]
    assert sorted(grouped, reverse=True)[:3] == [8, 3, 3] and sum(grouped) == 14
    assert sum('cuda/f14.cpp' in line or 'roi_align.cpp' in line for line in commands) == 2


def test_a_group_that_does_not_compile_is_compiled_file_by_file(sources, tmp_path):
    for number in (2, 5):
        with (sources / f'f{number:02}.cpp').open('a') as file:
            file.write('static int clash() { return 1; }\n')
    _, library = build(sources, tmp_path)
    assert numbers(library) == [*map(str, range(16)), '99']


def test_an_error_in_a_file_is_the_compilers(sources, tmp_path):
    (sources / 'f03.cpp').write_text('int f3() { return missing; }\n')
    done = subprocess.run(
        [SCRIPT, '-c', sources / 'f00.cpp', '-o', tmp_path / 'a.o'], capture_output=True, text=True, check=False
    )
    assert done.returncode and 'f03.cpp' in done.stderr and 'missing' in done.stderr
