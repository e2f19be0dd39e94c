"""Parts of a plan: sources of weights, random batches, trial steps, and what they say of a broken training."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from torch import nn

from mmkerv.analysis.plan.preflight import Check, Preflight, _would_be_loaded, fault_of
from mmkerv.analysis.plan.trial_step import (
    WARM_UP,
    built_here,
    first_batches,
    random_batch,
    step_costs,
    trial_optimizer,
    trial_step,
)
from mmkerv.engine.checkpoint.reachable import unreachable, weight_sources
from mmkerv.engine.checkpoint.safe_load import cached_file, web_address
from mmkerv.errors import ConfigError
from mmkerv.ops import CoCConv2d


class Server(BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_HEAD(self):
        self.asked.append(self.path)
        self.send_response(200 if self.path.endswith('there.pth') else 404)
        self.end_headers()

    def do_GET(self):
        raise AssertionError('a plan downloads nothing')

    def log_message(self, *args):
        pass


@pytest.fixture
def host():
    server = ThreadingHTTPServer(('127.0.0.1', 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


def pretrained(checkpoint):
    return Config(dict(model=dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)))))


def test_a_server_is_asked_and_nothing_is_downloaded(host, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    Server.asked.clear()
    (source,) = weight_sources(pretrained(f'{host}/there.pth'))
    assert (source.is_here, source.fault) == (False, '') and Server.asked == ['/there.pth']
    (source,) = weight_sources(pretrained(f'{host}/gone.pth'))
    assert (
        source.fault.startswith('model.backbone.init_cfg.checkpoint: ') and '404' in source.fault
    ) or 'Not Found' in source.fault
    assert f'put the file at {tmp_path}' in source.fault and '--no-pretrained' in source.fault
    assert not list(tmp_path.iterdir())
    # What an earlier run has downloaded is taken from there.
    cached = cached_file(f'{host}/gone.pth')
    cached.parent.mkdir()
    cached.touch()
    (source,) = weight_sources(pretrained(f'{host}/gone.pth'))
    assert source.is_here and not source.fault


def test_a_server_that_is_not_there():
    assert unreachable('http://127.0.0.1:9/a.pth', 1.0)
    assert unreachable('http://[broken/a.pth', 1.0)


@pytest.mark.parametrize(
    ('source', 'name'),
    [
        ('torchvision://resnet50', 'resnet50-'),
        ('open-mmlab://resnet50_v1c', 'resnet50_v1c'),
        ('https://host/a.pth', 'a.pth'),
        ('work/a.pth', None),
        ('s3://bucket/a.pth', None),
    ],
)
def test_address_of_a_checkpoint(source, name):
    if source.startswith('torchvision'):
        pytest.importorskip('torchvision')
    address = web_address(source)
    assert address is None if name is None else address.rpartition('/')[2].startswith(name)


def test_unknown_names_are_told():
    (source,) = weight_sources(pretrained('open-mmlab://resnet50_v1'))
    assert "did you mean 'resnet50_v1c'" in source.fault and not source.is_here
    (source,) = weight_sources(Config(dict(model={}, load_from='absent.pth')))
    assert source.fault.startswith("checkpoint 'absent.pth' does not exist") and 'load_from=FILE' in source.fault
    (source,) = weight_sources(Config(dict(model={}, load_from='s3://bucket/a.pth')))
    assert (source.is_here, source.fault) == (False, '')


class Model(nn.Module):
    """Loss = (mean of the network's output)^2 x factor."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.backbone, self.head, self.factor = CoCConv2d(3, 4, 3), nn.Linear(4, 2), factor

    def train_step(self, batch, wrapper):
        loss = self.head(self.backbone(batch['inputs']).mean((2, 3))).mean() ** 2 * self.factor
        wrapper.update_params(loss)
        batch['inputs'].zero_()
        return {'loss': loss}


def wrapped(model, lr=0.1):
    return OptimWrapper(torch.optim.SGD(model.parameters(), lr=lr))


def test_a_step_trains_and_leaves_its_batch():
    torch.manual_seed(0)
    model, batch = Model(), {'inputs': torch.rand(2, 3, 8, 8)}
    before = model.head.weight.detach().clone()
    first = trial_step(model, wrapped(model), batch)
    assert trial_step(model, wrapped(model), batch) < first and batch['inputs'].any()
    assert not torch.equal(before, model.head.weight)


def test_costs_are_of_each_network():
    small, large = Model(), Model()
    large.backbone = nn.Sequential(CoCConv2d(3, 64, 3), CoCConv2d(64, 4, 3))
    costs = step_costs([(m, wrapped(m)) for m in (small, large)], [{'inputs': torch.rand(2, 3, 32, 32)}], 2)
    assert all(cost.seconds > 0 for cost in costs)
    # The output of 64 channels and its gradient alone.
    assert costs[1].peak_bytes - costs[0].peak_bytes > 2 * 64 * 30 * 30 * 4


@pytest.mark.parametrize('limit, timed', [(60, 3), (0, 1)])
def test_fewer_steps_are_timed_on_a_slow_machine(limit, timed):
    model = Model()
    (cost,) = step_costs([(model, wrapped(model))], [{'inputs': torch.rand(2, 3, 8, 8)}], 3, limit)
    assert cost.timed == timed


def test_the_optimizer_is_that_of_the_config_with_a_small_learning_rate():
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.5, weight_decay=0.1))))
    wrapper = trial_optimizer(cfg, Model())
    assert {group['lr'] for group in wrapper.param_groups} == {0.5 * WARM_UP}
    # The operators' rules are in force, and the config is as it was.
    assert {group['weight_decay'] for group in wrapper.param_groups} == {0.1, 0.0}
    assert 'constructor' not in cfg.optim_wrapper


def test_data_are_read_here_whatever_is_set_for_workers():
    workers = dict(
        num_workers=2, persistent_workers=True, prefetch_factor=4, timeout=30, multiprocessing_context='spawn'
    )
    sampler = dict(type='DefaultSampler', shuffle=False)
    collate = dict(type='pseudo_collate')
    loader = built_here(dict(dataset=[1, 2, 3], batch_size=1, sampler=sampler, collate_fn=collate, **workers))
    assert first_batches(loader, 2)[0] == [[1], [2]]


def test_batches():
    assert first_batches(iter('abc'), 5)[0] == ['a', 'b', 'c']
    with pytest.raises(ConfigError, match='no batch'):
        first_batches([], 1)
    with pytest.raises(ConfigError, match='of None'):
        random_batch(Config({}), Model(), (8, 8))


@pytest.mark.parametrize('library', ['mmdet', 'mmseg', 'mmpretrain'])
def test_random_batches_have_the_size_and_the_labels_of_the_training(library):
    pytest.importorskip(library)
    model = Model()
    model.bbox_head = model.decode_head = model.head
    model.head.num_classes = 1 if library == 'mmdet' else 5
    cfg = Config(dict(default_scope=library, train_dataloader=dict(batch_size=3)))
    batch = random_batch(cfg, model, (32, 48))
    assert len(batch['inputs']) == len(batch['data_samples']) == 3
    assert all(image.shape == (3, 32, 48) and image.dtype == torch.uint8 for image in batch['inputs'])
    samples = batch['data_samples']
    if library == 'mmdet':
        assert all(sample.gt_instances.labels.eq(0).all() for sample in samples)
    elif library == 'mmseg':
        assert all(
            sample.gt_sem_seg.data.shape == (1, 32, 48) and sample.gt_sem_seg.data.max() <= 4 for sample in samples
        )
    else:
        assert all(0 <= int(sample.gt_label) < 5 for sample in samples)


@pytest.mark.parametrize(('factor', 'found'), [(float('nan'), 'the loss is nan'), (1.0, None)])
def test_a_loss_that_is_not_finite_is_a_fault(factor, found):
    plan = Preflight(Config(dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)))))
    plan.model, plan.batches, plan.has_data = Model(factor), [{'inputs': torch.rand(2, 3, 8, 8)}], True
    plan._has_its_weights = True
    plan._train_a_step()
    assert [fault.split(',')[0] for fault in plan.faults] == ([found] if found else [])


def test_a_config_that_is_none_of_a_training():
    plan = Preflight(Config(dict(default_scope='mmengine', train_cfg=dict(max_epochs=1)))).run()
    assert [fault.split(',')[0] for fault in plan.faults] == [
        f'the config has no {key}' for key in ('model', 'train_dataloader', 'optim_wrapper')
    ]
    assert plan.model is None and not plan.batches


@pytest.mark.parametrize(('absent', 'read'), [('train', ['val']), ('val', ['train'])])
def test_data_that_are_there_are_read_where_others_are_missing(tmp_path, monkeypatch, absent, read):
    reads = []
    monkeypatch.setattr(Preflight, '_read_data', lambda plan: reads.append('train'))
    monkeypatch.setattr(Preflight, '_read_evaluation', lambda plan: reads.append('val'))
    roots = {'train': tmp_path, 'val': tmp_path} | {absent: tmp_path / 'absent'}
    loaders = {f'{k}_dataloader': dict(dataset=dict(type='A', data_root=str(root))) for k, root in roots.items()}
    loops = dict(train_cfg=dict(max_epochs=1), optim_wrapper=dict(), val_cfg=dict(), val_evaluator=dict())
    plan = Preflight(Config(dict(default_scope='mmengine', **loaders, **loops))).run()
    assert reads == read
    assert any(f'{absent}_dataloader.dataset.data_root' in fault for fault in plan.faults)
    skipped = [str(check) for check in plan.checks if not check.is_done]
    assert ('-       training data: not checked, it is missing' in skipped) == (absent == 'train')


def test_parts_that_would_be_loaded():
    model = Model()
    loaded = _would_be_loaded(model, ['model.head.init_cfg.checkpoint'])
    assert loaded == set(model.head.parameters())
    # Parameters of operators may be their own.
    assert _would_be_loaded(model, ['load_from']) == set(model.head.parameters())
    assert _would_be_loaded(model, ['model.init_cfg.checkpoint']) == set(model.head.parameters())
    # The backbone of this model is one operator.
    assert _would_be_loaded(model, ['model.pretrained']) == _would_be_loaded(model, []) == set()


def test_text_of_a_check():
    assert str(Check('data', ['a', 'b'])).splitlines() == ['FAULT   data: a', 'FAULT   data: b']
    assert str(Check('data', [], 'why', is_done=False)) == '-       data: why'
    assert fault_of(ValueError('two\n  lines')) == 'ValueError: two lines'
