"""The architectures in a compiled library, against files made here and against torchvision's own library."""

from pathlib import Path

import pytest

from mmkerv.device_code import ARCHITECTURE, CONTAINER, ENTRY, device_code, runs_on

SM, PTX = 2, 1


def container(*codes, header=64):
    """A container of entries as nvcc writes it, each with 40 bytes of code."""
    entries = b''
    for kind, number in codes:
        entry = ENTRY.pack(kind, 0x101, header, 40) + bytes(12) + ARCHITECTURE.pack(number)
        entries += entry.ljust(header, b'\0') + b'\xaa' * 40
    return CONTAINER.pack(0xBA55ED50, 1, 16, len(entries)) + entries


def write(folder, content):
    file = folder / 'library.so'
    file.write_bytes(content)
    return file


def test_machine_code_and_ptx_of_all_containers_are_listed_once(tmp_path):
    content = b'ELF' + container((SM, 75), (SM, 100)) + b'text' + container((SM, 75), (PTX, 120), header=112) + b'end'
    assert device_code(write(tmp_path, content)) == ('sm_75', 'sm_100', 'compute_120')


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'no code',
        container((SM, 90))[:20],
        container((SM, 90))[:-1],
        container((SM, 90)).replace(b'\x01\x00\x10', b'\x09\x00\x10', 1),
        container((7, 90)),
        container((SM, 90), header=16),
        b'\x50\xed\x55\xba',
    ],
)
def test_other_bytes_are_no_code(tmp_path, content):
    assert device_code(write(tmp_path, content)) == ()


def test_a_chance_match_does_not_hide_a_container(tmp_path):
    chance = CONTAINER.pack(0xBA55ED50, 1, 16, 1 << 40)
    assert device_code(write(tmp_path, chance + container((SM, 90)))) == ('sm_90',)


def test_torchvisions_library_has_the_architectures_that_it_was_built_for():
    torchvision = pytest.importorskip('torchvision')
    library = next(Path(torchvision.__file__).parent.glob('_C*.so'), None)
    if library is None or not device_code(library):
        pytest.skip('a torchvision without CUDA')
    code = device_code(library)
    assert 'sm_80' in code and len(code) >= 4 and code[-1].startswith(('sm_', 'compute_'))


@pytest.mark.parametrize(
    'code, capability, runs',
    [
        ([], (9, 0), False),
        (['sm_90'], (9, 0), True),
        (['sm_80'], (8, 9), True),
        (['sm_89'], (8, 6), False),
        (['sm_90'], (10, 0), False),
        (['sm_100'], (10, 3), True),
        (['sm_80', 'compute_80'], (12, 0), True),
        (['compute_90'], (8, 0), False),
    ],
)
def test_what_runs_where(code, capability, runs):
    assert runs_on(code, capability) == runs
