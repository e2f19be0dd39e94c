import contextlib

import pytest
import torch
from mmengine.runner import CheckpointLoader

from mmkerv.engine import apply_patches, safe_load
from mmkerv.errors import UnsafeCheckpointError
from tests.engine.tiny_runner import tiny_runner
from tests.malicious_files import execute, hidden, legacy, write


@pytest.mark.parametrize('trust', [False, True])
def test_runner_reads_local_files_safely(tmp_path, trust):
    target = tmp_path / 'target'
    file = write(tmp_path / 'malicious.pth', hidden('meta', execute(target)))
    apply_patches(trust=trust)
    with contextlib.nullcontext() if trust else pytest.raises(UnsafeCheckpointError, match=r'malicious\.pth'):
        CheckpointLoader.load_checkpoint(str(file), 'cpu')
    assert target.exists() == trust


@pytest.mark.parametrize(
    'address',
    [
        'https://example.org/malicious.pth',
        'http://example.org/malicious.pth',
        'torchvision://resnet18',
        'open-mmlab://detectron2/resnet50_caffe',
        'openmmlab://detectron2/resnet50_caffe',
        'mmcls://resnet50',
    ],
)
@pytest.mark.parametrize('trust', [False, True])
def test_runner_reads_downloads_safely(tmp_path, monkeypatch, address, trust):
    target, downloaded = tmp_path / 'target', []

    def download(url, file, *args, **kwargs):
        downloaded.append(url)
        write(file, hidden('state_dict', execute(target)))

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    apply_patches(trust=trust)
    with contextlib.nullcontext() if trust else pytest.raises(UnsafeCheckpointError, match=r'\.pth'):
        CheckpointLoader.load_checkpoint(address, 'cpu')
    assert target.exists() == trust and len(downloaded) == 1 and downloaded[0].startswith('http')
    target.unlink(missing_ok=True)
    with contextlib.nullcontext() if trust else pytest.raises(UnsafeCheckpointError):
        CheckpointLoader.load_checkpoint(address, 'cpu')
    assert target.exists() == trust and len(downloaded) == 1, 'the second time it comes from the cache'


def test_runner_reads_a_model_zoo_in_mmengine_home_safely(tmp_path, monkeypatch):
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    (tmp_path / 'open_mmlab.json').write_text('{"mine": "malicious.pth"}')
    write(tmp_path / 'malicious.pth', hidden('state_dict', execute(tmp_path / 'target')))
    apply_patches()
    with pytest.raises(UnsafeCheckpointError, match=r'malicious\.pth'):
        CheckpointLoader.load_checkpoint('open-mmlab://mine', 'cpu')
    assert not (tmp_path / 'target').exists()


ADDRESSES = ['s3://bucket/a.pth', 'open-mmlab:s3://bucket/a.pth', 'petrel://a.pth', 'pavi://a.pth']


def test_every_loader_of_mmengine_that_reads_files_is_replaced():
    apply_patches()
    schemes = CheckpointLoader._schemes
    left = {prefix for prefix, loader in schemes.items() if not loader.__module__.startswith('mmkerv.')}
    # These only look up an address and pass it on.
    assert left == {'modelzoo://', 'torchvision://', 'mmcls://'}


@pytest.mark.parametrize('address', ADDRESSES)
def test_runner_reads_object_stores_safely(tmp_path, monkeypatch, address):
    content = legacy(hidden('meta', execute(tmp_path / 'target')))
    monkeypatch.setattr('mmkerv.engine.checkpoint.safe_load.read_bytes', lambda name: {address: content}[name])
    apply_patches()
    with pytest.raises(UnsafeCheckpointError, match=r'a\.pth'):
        CheckpointLoader.load_checkpoint(address, 'cpu')
    assert not (tmp_path / 'target').exists()


def test_failed_download_says_where_to_put_the_file(tmp_path, monkeypatch):
    def download(*args, **kwargs):
        raise OSError('no route to host')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    apply_patches()
    with pytest.raises(ConnectionError, match=r'example\.org/a\.pth.*no route to host.*path of a file'):
        CheckpointLoader.load_checkpoint('https://example.org/a.pth', 'cpu')


def test_files_of_the_same_name_are_kept_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'download_url_to_file', lambda url, file: torch.save({'from': url}, file))
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    apply_patches()
    addresses = [f'https://example.org/{path}' for path in ('a/model.pth', 'b/model.pth', 'model.pth?id=1', '?id=2')]
    for address in addresses * 2:
        assert CheckpointLoader.load_checkpoint(address, 'cpu') == {'from': address}
    names = sorted(file.name for file in (tmp_path / 'checkpoints').iterdir())
    assert len(names) == 4 and not any('?' in name for name in names)
    assert all(name.endswith('.pth') for name in names if name.startswith('model-'))


@pytest.mark.parametrize(
    ('ranks', 'expected'),
    [
        ({}, ['download', 'barrier']),
        ({'RANK': 0}, ['download', 'barrier']),
        ({'RANK': 1}, ['barrier']),
        ({'RANK': 8, 'LOCAL_RANK': 0}, ['download', 'barrier']),
        ({'RANK': 9, 'LOCAL_RANK': 1}, ['barrier']),
    ],
)
@pytest.mark.parametrize('fails', [False, True])
def test_one_process_of_a_machine_downloads_for_all(tmp_path, monkeypatch, ranks, expected, fails):
    events, module = [], 'mmkerv.engine.checkpoint.safe_load'

    def download(url, file):
        events.append('download')
        if fails:
            raise OSError('no route to host')
        torch.save({'weight': torch.ones(1)}, file)

    def barrier():
        events.append('barrier')
        if 'download' not in events and not fails:
            # Meanwhile another process has downloaded it.
            file = tmp_path / 'checkpoints' / 'a-01234567.pth'
            file.parent.mkdir()
            torch.save({'weight': torch.ones(1)}, file)

    monkeypatch.delenv('LOCAL_RANK', raising=False)
    if 'LOCAL_RANK' in ranks:
        monkeypatch.setenv('LOCAL_RANK', str(ranks['LOCAL_RANK']))
    monkeypatch.setattr(f'{module}.get_rank', lambda: ranks.get('RANK', 0), raising=False)
    monkeypatch.setattr(f'{module}.barrier', barrier, raising=False)
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    apply_patches()
    with pytest.raises(ConnectionError) if fails else contextlib.nullcontext():
        CheckpointLoader.load_checkpoint('https://example.org/a-01234567.pth', 'cpu')
    # One whose machine has no file yet says why, as the others do.
    assert events == (expected if not fails or 'download' in expected else ['barrier', 'download'])


@pytest.mark.parametrize('trust', [False, True])
def test_config_in_a_checkpoint_is_not_run_on_resume(trained, tmp_path, trust):
    target = tmp_path / 'target'
    checkpoint = safe_load(f'{trained.work_dir}/it.pth')
    checkpoint['meta'].update(epoch=1, iter=2, config=f'open({str(target)!r}, "w").close()')
    torch.save(checkpoint, tmp_path / 'it.pth')
    apply_patches(trust=trust)
    runner = tiny_runner(
        tmp_path / 'run',
        load_from=str(tmp_path / 'it.pth'),
        resume=True,
        train_cfg=dict(by_epoch=True, max_epochs=2),
    )
    runner.train()
    assert (runner.epoch, runner.iter) == (2, 4)
    assert target.exists() == trust
