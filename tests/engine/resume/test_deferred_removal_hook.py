import errno
import os
import shutil
from pathlib import Path

import pytest
from mmengine.hooks import Hook

from mmkerv.engine import apply_patches, safe_load
from tests.engine.tiny_runner import tiny_runner

CHECKPOINT = dict(type='CheckpointHook', interval=1, max_keep_ckpts=1, save_best='mean', rule='less')
LENGTH = dict(by_epoch=True, max_epochs=4, val_interval=1)


@pytest.fixture(autouse=True)
def installed():
    apply_patches()


class Better(Hook):
    """Hook that makes every evaluation better than the last."""

    priority = 'VERY_HIGH'

    def after_val_epoch(self, runner, metrics=None):
        metrics['mean'] = -float(runner.epoch)


def run(folder, *hooks):
    custom = [Better(), *hooks]
    tiny_runner(folder, custom_hooks=custom, train_cfg=LENGTH, default_hooks=dict(checkpoint=CHECKPOINT)).train()


def names(folder) -> set[str]:
    return {file.name for file in folder.glob('*.pth')}


@pytest.fixture
def full_disk(monkeypatch):
    """Make writing a checkpoint of the third epoch fail."""
    write = Path.write_bytes

    def fail(path, content):
        if 'epoch_3' in path.name:
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, 'No space left on device')
        write(path, content)

    monkeypatch.setattr(Path, 'write_bytes', fail)


def test_same_checkpoints_are_kept_as_without_the_hook(tmp_path):
    run(tmp_path / 'plain')
    run(tmp_path / 'hook', dict(type='mmkerv.DeferredRemovalHook'))
    assert names(tmp_path / 'plain') == names(tmp_path / 'hook') == {'epoch_4.pth', 'best_mean_epoch_4.pth'}


@pytest.mark.parametrize('hooks', [[], [dict(type='mmkerv.DeferredRemovalHook')]], ids=['plain', 'hook'])
def test_failing_write_leaves_the_last_checkpoint(tmp_path, full_disk, hooks):
    with pytest.raises(OSError, match=r'No space left on device; earlier files are whole; free some.*epoch_3\.pth'):
        run(tmp_path, *hooks)
    # Without the hook mmengine removes the last checkpoint before it fails to write the next.
    assert ('epoch_2.pth' in names(tmp_path)) == bool(hooks)
    for name in names(tmp_path):
        assert safe_load(tmp_path / name)['state_dict']
    assert not [name for name in os.listdir(tmp_path) if name.endswith('.tmp')]


def test_failing_write_leaves_the_best_checkpoint(tmp_path, monkeypatch):
    write = Path.write_bytes

    def fail(path, content):
        if 'best_mean_epoch_3' in path.name:
            raise OSError(errno.ENOSPC, 'No space left on device')
        write(path, content)

    monkeypatch.setattr(Path, 'write_bytes', fail)
    with pytest.raises(OSError, match='No space left'):
        run(tmp_path, dict(type='mmkerv.DeferredRemovalHook'))
    assert 'best_mean_epoch_2.pth' in names(tmp_path)


def test_best_checkpoint_of_the_resumed_run_is_kept(tmp_path):
    keep = dict(type='mmkerv.DeferredRemovalHook')
    run(tmp_path / 'first', keep)
    last = str(tmp_path / 'first' / 'epoch_4.pth')
    length, writing = {**LENGTH, 'max_epochs': 6}, dict(checkpoint=CHECKPOINT)
    settings = dict(custom_hooks=[Better(), keep], train_cfg=length, default_hooks=writing)
    tiny_runner(tmp_path / 'second', resume=True, load_from=last, **settings).train()
    assert names(tmp_path / 'first') == {'epoch_4.pth', 'best_mean_epoch_4.pth'}
    assert names(tmp_path / 'second') == {'epoch_6.pth', 'best_mean_epoch_6.pth'}


@pytest.mark.parametrize('metrics', ['mean', ['mean']], ids=['one', 'list'])
@pytest.mark.parametrize('move', [shutil.move, shutil.copytree], ids=['moved', 'copied'])
def test_best_checkpoint_of_a_moved_run_is_replaced(tmp_path, move, metrics):
    first, second = tmp_path / 'first', tmp_path / 'second'
    settings = dict(
        custom_hooks=[Better(), dict(type='mmkerv.DeferredRemovalHook')],
        default_hooks=dict(checkpoint={**CHECKPOINT, 'save_best': metrics}),
    )
    tiny_runner(first, train_cfg=LENGTH, **settings).train()
    before = names(first)
    move(first, second)
    length = {**LENGTH, 'max_epochs': 6}
    tiny_runner(second, resume=True, load_from=str(second / 'epoch_4.pth'), train_cfg=length, **settings).train()
    assert names(second) == {'epoch_6.pth', 'best_mean_epoch_6.pth'}
    assert names(first) == (before if move is shutil.copytree else set())
