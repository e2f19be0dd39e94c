"""Several processes on one machine (gloo): every operator's gradients are those of one process on the whole batch."""

import copy
import functools
import socket

import pytest
import torch
import torch.multiprocessing as mp

from mmkerv.ops import switch_to_deploy
from tests.contract.ranks import Network, batch, shard, step, train
from tests.ops.catalogue import DISTRIBUTED


def free_port() -> int:
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


@functools.cache
def alone(name):
    """Gradients, outputs and parameters after two steps of one process."""
    model = Network(name)
    x, target = batch(model.dims)
    gradients = [step(model, x, target) for _ in range(2)]
    return gradients, model(x).detach(), model.state_dict()


@pytest.fixture(scope='module', params=[2, 4])
def ranks(request, tmp_path_factory):
    """Results of each of 2, then of 4 processes."""
    folder = tmp_path_factory.mktemp('ranks')
    mp.start_processes(train, (request.param, free_port(), str(folder)), request.param, start_method='spawn')
    return [torch.load(folder / f'{rank}.pth', weights_only=True) for rank in range(request.param)]


def same(found, expected):
    assert set(found) == set(expected)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-9, rtol=1e-7, msg=lambda text, n=name: f'{n}: {text}')


@pytest.mark.slow
@pytest.mark.parametrize('name', DISTRIBUTED)
class TestDataParallel:
    def test_gradients_are_those_of_the_whole_batch(self, ranks, name):
        expected = alone(name)[0]
        assert all(float(gradient.abs().max()) > 0 for key, gradient in expected[1].items() if 'operator' in key)
        for rank in ranks:
            for found, wanted in zip(rank[name]['gradients'], expected, strict=True):
                same(found, wanted)

    def test_processes_stay_together(self, ranks, name):
        for rank in ranks:
            same(rank[name]['state'], alone(name)[2])

    def test_frozen_kernels_are_right_on_every_process(self, ranks, name):
        for rank in ranks:
            torch.testing.assert_close(rank[name]['frozen'], alone(name)[1])


@pytest.fixture(scope='module')
def sharded(tmp_path_factory):
    """Results of two processes that share one network's parameters."""
    if torch.__version__ < '2.6':
        pytest.skip('fully_shard on CPUs needs torch 2.6')
    folder = tmp_path_factory.mktemp('sharded')
    mp.start_processes(shard, (2, free_port(), str(folder)), 2, start_method='spawn')
    return torch.load(folder / 'sharded.pth', weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize('name', DISTRIBUTED)
def test_sharded_parameters(sharded, name):
    for found, wanted in zip(sharded[name], alone(name)[0], strict=True):
        same(found, wanted)


@pytest.mark.parametrize('name', DISTRIBUTED)
def test_conversion_to_synchronised_norms_leaves_operators(name):
    operator = Network(name).operator
    model = torch.nn.Sequential(operator, torch.nn.BatchNorm2d(operator.out_channels)).eval()
    if isinstance(model[0], torch.nn.Module) and model[0].dims == 1:
        model[1] = torch.nn.BatchNorm1d(6).eval()
    model.double()
    x = torch.randn(2, 4, *(6,) * model[0].dims, dtype=torch.float64)
    # Older torch converts into training mode.
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)).eval()
    assert isinstance(converted[1], torch.nn.SyncBatchNorm) and type(converted[0]) is type(model[0])
    same(converted.state_dict(), model.state_dict())
    torch.testing.assert_close(converted(x), model(x))
    if not name.startswith('Kerv'):
        switch_to_deploy(converted)
        torch.testing.assert_close(converted(x), model(x))
