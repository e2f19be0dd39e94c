import logging
import os
import shutil
import time

import pytest
import torch
from mmengine.config import Config

from mmkerv.engine.resume.latest_checkpoint import latest_checkpoint, remove_partial_files
from mmkerv.errors import ConfigError
from tests.engine.tiny_runner import tiny_runner


@pytest.fixture
def logged(monkeypatch):
    lines = []
    monkeypatch.setattr(
        'mmkerv.engine.resume.latest_checkpoint.log', lambda text, level=logging.INFO: lines.append((level, text))
    )
    return lines


def write(folder, name, iteration=0, age=0.0, **more):
    """Write a small checkpoint with a modification time ``age`` seconds ago."""
    file = folder / name
    checkpoint = {'meta': {'iter': iteration, 'epoch': 0}, 'state_dict': {'w': torch.ones(100)}, 'message_hub': {}}
    torch.save({**checkpoint, **more}, file)
    set_age(file, age)
    return file


def set_age(file, age):
    os.utime(file, (time.time() - age,) * 2)


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


def mark(folder, name, age=0.0):
    (folder / 'last_checkpoint').write_text(str(name))
    set_age(folder / 'last_checkpoint', age)


def find(folder, **hook):
    return latest_checkpoint(Config(dict(work_dir=str(folder), default_hooks=dict(checkpoint=hook))))


def test_without_a_checkpoint_training_begins_from_the_start(tmp_path, logged):
    assert find(tmp_path / 'absent') is None
    (tmp_path / 'best_acc_epoch_1.pth').touch()
    assert find(tmp_path) is None
    assert logged and all('begins from the start' in text for _, text in logged)


def test_named_checkpoint_is_taken_though_others_are_newer(tmp_path, logged):
    """A copied folder may have its files in any order, and a reused one old files of later epochs."""
    last = write(tmp_path, 'epoch_3.pth', 30, age=5)
    write(tmp_path, 'epoch_2.pth', 20)
    write(tmp_path, 'epoch_9.pth', 90, age=1000)
    write(tmp_path, 'best_acc_epoch_7.pth', 99)
    mark(tmp_path, last, age=5)
    assert find(tmp_path) == str(last) and not logged


def test_checkpoint_newer_than_its_marker_is_taken(tmp_path, logged):
    mark(tmp_path, write(tmp_path, 'epoch_3.pth', 30, age=50), age=50)
    later = write(tmp_path, 'epoch_4.pth', 40)
    assert find(tmp_path) == str(later)
    assert logged[0][0] == logging.INFO and 'epoch_3.pth' in logged[0][1] and 'epoch_4.pth' in logged[0][1]
    truncate(later)
    assert find(tmp_path).endswith('epoch_3.pth')


@pytest.mark.parametrize('damage', ['missing', 'truncated', 'empty', 'weights', 'list'])
def test_newest_complete_checkpoint_replaces_a_damaged_one(tmp_path, logged, damage):
    write(tmp_path, 'epoch_1.pth', 10, age=30)
    good = write(tmp_path, 'epoch_2.pth', 20, age=20)
    truncate(write(tmp_path, 'epoch_3.pth', 30, age=10))
    set_age(tmp_path / 'epoch_3.pth', 10)
    last = write(tmp_path, 'epoch_4.pth', 40)
    if damage == 'missing':
        last.unlink()
    elif damage == 'truncated':
        truncate(last)
    elif damage == 'empty':
        last.write_bytes(b'')
    else:
        torch.save({'state_dict': {}} if damage == 'weights' else [1], last)
    mark(tmp_path, last)
    assert find(tmp_path) == str(good) == (tmp_path / 'last_checkpoint').read_text()
    level, text = logged[-1]
    assert level == logging.WARNING and str(good) in text and str(last) in text


@pytest.mark.parametrize('marker', [None, b'', b'\xff\xfe', b'half/a/na'])
def test_marker_without_a_valid_name_is_replaced(tmp_path, logged, marker):
    good = write(tmp_path, 'iter_20.pth', 20)
    if marker is not None:
        (tmp_path / 'last_checkpoint').write_bytes(marker)
    assert find(tmp_path) == str(good)
    assert logged[-1][0] == logging.WARNING
    assert find(tmp_path) == str(good) == (tmp_path / 'last_checkpoint').read_text(), 'the marker names it now'


def test_checkpoint_in_a_moved_folder_is_found(tmp_path, logged):
    last = write(tmp_path, 'epoch_3.pth', 30, age=9)
    write(tmp_path, 'epoch_2.pth', 20)
    mark(tmp_path, '/where/it/was/epoch_3.pth')
    assert find(tmp_path) == str(last)


def test_names_and_folders_of_the_config_are_used(tmp_path):
    (tmp_path / 'out' / 'run').mkdir(parents=True)
    (tmp_path / 'run').mkdir()
    file = write(tmp_path / 'out' / 'run', 'it+5.ckpt', 5)
    assert find(tmp_path / 'run', out_dir=str(tmp_path / 'out'), filename_tmpl='it+{}.ckpt') == str(file)
    mark(tmp_path / 'run', 's3://bucket/epoch_3.pth')
    assert find(tmp_path / 'run') == 's3://bucket/epoch_3.pth'


def test_no_complete_checkpoint_is_an_error(tmp_path):
    truncate(write(tmp_path, 'epoch_1.pth'))
    mark(tmp_path, tmp_path / 'epoch_2.pth')
    with pytest.raises(ConfigError, match=r'no complete checkpoint.*epoch_2\.pth does not.*epoch_1\.pth cannot be'):
        find(tmp_path)


def test_partial_files_of_ended_processes_are_removed(tmp_path):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    names = [f'.epoch_1.pth.{child}.tmp', f'.epoch_2.pth.{os.getpid()}.tmp', '.epoch_3.pth.1.tmp', '.a.tmp', 'b.1.tmp']
    for name in names:
        (tmp_path / name).touch()
    assert {file.name for file in remove_partial_files(tmp_path)} == set(names[:2])
    assert {file.name for file in tmp_path.iterdir()} == set(names[2:]), 'process 1 is alive; the others are not ours'


def test_checkpoint_of_a_runner_is_complete(tmp_path):
    tiny_runner(tmp_path).train()
    assert find(tmp_path) == str(tmp_path / 'epoch_1.pth')


def test_copied_folder_uses_its_own_checkpoint(tmp_path, logged):
    """The marker has the path of the original, which still exists."""
    (tmp_path / 'a').mkdir()
    mark(tmp_path / 'a', write(tmp_path / 'a', 'epoch_3.pth', 30))
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    assert find(tmp_path / 'b') == str(tmp_path / 'b' / 'epoch_3.pth')


@pytest.mark.parametrize('earlier', [True, False])
def test_checkpoint_of_an_earlier_run_is_not_taken(tmp_path, logged, earlier):
    """In a folder used twice and copied without its times both checkpoints are newer than the marker."""
    old = {'time': '20260101_120000' if earlier else '20260301_120000'}
    write(tmp_path, 'epoch_20.pth', meta={'iter': 200, 'epoch': 20, **old})
    named = write(tmp_path, 'epoch_5.pth', meta={'iter': 50, 'epoch': 5, 'time': '20260201_120000'})
    mark(tmp_path, named, age=5)
    assert find(tmp_path) == str(named if earlier else tmp_path / 'epoch_20.pth')


NAN = {'w': torch.ones(3), 'b': torch.tensor([0.0, float('nan')])}
WRONG = {
    'meta that is None': dict(meta=None),
    'meta that is a list': dict(meta=[1]),
    'iteration that is text': dict(meta={'iter': 'a', 'epoch': 1}),
    'iteration that is None': dict(meta={'iter': None, 'epoch': 1}),
    'no epoch': dict(meta={'iter': 40}),
    'hub that is a list': dict(message_hub=[]),
    'weights that are None': dict(state_dict=None),
    'weights with NaN': dict(state_dict=NAN),
}


@pytest.mark.parametrize('wrong', WRONG)
@pytest.mark.parametrize('marked', [True, False])
def test_checkpoint_that_cannot_be_resumed_is_skipped(tmp_path, logged, wrong, marked):
    good = write(tmp_path, 'epoch_1.pth', 10, age=30)
    bad = write(tmp_path, 'epoch_4.pth', 40, **WRONG[wrong])
    mark(tmp_path, bad if marked else good, age=0 if marked else 30)
    assert find(tmp_path) == str(good)
    assert not marked or (logged[-1][0] == logging.WARNING and 'epoch_4.pth' in logged[-1][1])


def test_infinite_numbers_are_accepted(tmp_path):
    mark(tmp_path, write(tmp_path, 'epoch_1.pth', 10, state_dict={'mask': torch.tensor([0.0, float('-inf')])}))
    assert find(tmp_path) == str(tmp_path / 'epoch_1.pth')
