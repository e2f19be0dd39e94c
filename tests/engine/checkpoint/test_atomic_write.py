import os
import resource
import signal
from pathlib import Path

import mmengine
import pytest
import torch
from mmengine.fileio import get_file_backend

from mmkerv.engine import apply_patches, atomic_path, save_checkpoint
from mmkerv.engine.checkpoint import atomic_write as atomic
from tests.engine.tiny_runner import tiny_runner


@pytest.fixture
def installed():
    """Make mmengine write through ``AtomicLocalBackend``."""
    apply_patches()


@pytest.fixture(params=['new', 'old'])
def target(tmp_path, request) -> Path:
    """File to write, which exists already or does not."""
    file = tmp_path / 'model.pth'
    if request.param == 'old':
        file.write_bytes(b'old')
    return file


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def no_replace(*args):
    raise OSError(28, 'No space left on device')


def test_complete_file_replaces_the_old_one(target):
    with atomic_path(target) as temporary:
        temporary.write_bytes(b'n')
        assert temporary.parent == target.parent and temporary != target
        assert target.exists() == (b'old' in content(target.parent).values()), 'the target is unchanged before the end'
        with open(temporary, 'ab') as stream:
            stream.write(b'ew')
    assert content(target.parent) == {'model.pth': b'new'}


def test_folders_are_created(tmp_path):
    with atomic_path(str(tmp_path / 'a' / 'b' / 'c.txt')) as temporary:
        temporary.write_text('text')
    assert (tmp_path / 'a' / 'b' / 'c.txt').read_text() == 'text'


@pytest.mark.parametrize('error', [ArithmeticError, KeyboardInterrupt, SystemExit])
def test_error_in_the_block_leaves_the_old_file(target, error):
    before = content(target.parent)
    with pytest.raises(error), atomic_path(target) as temporary:
        temporary.write_bytes(b'ha')
        raise error
    assert content(target.parent) == before


def test_failing_replace_leaves_the_old_file(target, monkeypatch):
    before = content(target.parent)
    monkeypatch.setattr(os, 'replace', no_replace)
    with pytest.raises(OSError, match='No space left'), atomic_path(target) as temporary:
        temporary.write_bytes(b'new')
    assert content(target.parent) == before


def test_nothing_written_is_an_error(target):
    before = content(target.parent)
    with pytest.raises(FileNotFoundError), atomic_path(target):
        pass
    assert content(target.parent) == before


def test_killed_process_leaves_the_old_file(target):
    before = content(target.parent)
    child = os.fork()
    if not child:
        with atomic_path(target) as temporary:
            temporary.write_bytes(b'ha')
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    after = content(target.parent)
    assert {name: after.get(name) for name in before} == before and target.exists() == bool(before)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write to every folder')
def test_read_only_folder_leaves_the_old_file(target):
    before = content(target.parent)
    target.parent.chmod(0o555)
    with pytest.raises(PermissionError), atomic_path(target) as temporary:
        temporary.write_bytes(b'new')
    target.parent.chmod(0o755)
    assert content(target.parent) == before


def test_file_in_the_place_of_a_folder_is_an_error(target):
    target.write_bytes(b'old')
    with pytest.raises(OSError, match=r'model\.pth'), atomic_path(target / 'inner.pth') as temporary:
        temporary.write_bytes(b'new')
    assert content(target.parent) == {'model.pth': b'old'}


def test_mmengine_writes_atomically(target, installed, monkeypatch):
    assert type(get_file_backend(str(target))) is atomic.AtomicLocalBackend
    for name in ('a.json', 'b.pkl', 'c.yaml'):
        mmengine.dump({'a': 1}, target.parent / name)
        assert mmengine.load(target.parent / name) == {'a': 1}
    get_file_backend('').put_text('è', target.parent / 'd.txt', encoding='latin1')
    assert (target.parent / 'd.txt').read_bytes() == b'\xe8'
    before = content(target.parent)
    monkeypatch.setattr(os, 'replace', no_replace)
    for name in ('a.json', 'b.pkl', 'c.yaml', 'new.json'):
        with pytest.raises(OSError, match='No space left'):
            mmengine.dump({'a': 2}, target.parent / name)
    assert content(target.parent) == before


def test_checkpoint_of_a_runner_is_written_atomically(tmp_path, installed, monkeypatch):
    replaced = []
    replace = os.replace
    monkeypatch.setattr(os, 'replace', lambda *names: (replaced.append(Path(names[1]).name), replace(*names)))
    runner = tiny_runner(tmp_path, default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)))
    runner.train()
    assert replaced == ['epoch_1.pth'], "the runner's hook writes atomically"
    before = (tmp_path / 'epoch_1.pth').read_bytes()

    runner.model.conv.weight.data.zero_()
    monkeypatch.setattr(os, 'replace', no_replace)
    with pytest.raises(OSError, match='No space left'):
        runner.save_checkpoint(str(tmp_path), 'epoch_1.pth')
    assert (tmp_path / 'epoch_1.pth').read_bytes() == before
    assert not [*tmp_path.glob('*.tmp'), *tmp_path.glob('.*.tmp')]
    monkeypatch.setattr(os, 'replace', replace)
    runner.save_checkpoint(str(tmp_path), 'epoch_1.pth')
    assert not torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']['conv.weight'].any()


def test_file_is_on_the_disk_before_it_replaces_the_old_one(target, monkeypatch):
    """A file whose name reaches the disk before its content may be empty after a crash of the machine."""
    done, replace = [], os.replace

    def sync(descriptor):
        done.append(('sync', os.readlink(f'/proc/self/fd/{descriptor}')))

    monkeypatch.setattr(os, 'fsync', sync)
    monkeypatch.setattr(os, 'replace', lambda *names: (done.append(('replace', str(names[1]))), replace(*names)))
    with atomic_path(target) as temporary:
        temporary.write_bytes(b'new')
    folder = str(target.parent)
    assert done == [('sync', str(temporary)), ('replace', str(target)), ('sync', folder)]


@pytest.mark.parametrize('limit', [200, 100_000])
def test_checkpoint_that_does_not_fit_on_the_disk_names_the_file(target, limit):
    before = content(target.parent)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        with pytest.raises(OSError, match=r'File too large; earlier files are whole; raise the limit.*model\.pth'):
            save_checkpoint({'state_dict': {'weight': torch.ones(100_000)}}, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert content(target.parent) == before
    save_checkpoint({'a': torch.ones(1)}, target)
    assert torch.load(target)['a'] == 1
