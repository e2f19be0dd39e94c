"""Long runs and many threads: memory does not grow, and threads that share a model do not disturb each other."""

import gc
import resource
import threading

import pytest
import torch

from mmkerv.ops import frozen_kernels
from tests.contract.ranks import Network, batch, step
from tests.ops.catalogue import DISTRIBUTED


def rounds(model, x, target, number: int) -> None:
    """Train, evaluate with frozen kernels, train again, ..."""
    for _ in range(number):
        model.train()
        step(model, x, target, rate=1e-4)
        model.eval()
        with torch.no_grad(), frozen_kernels(model):
            model(x)


@pytest.fixture(scope='module', autouse=True)
def frozen():
    """Leave out what earlier tests have made, which takes the collector seconds."""
    gc.collect()
    gc.freeze()


def tensors() -> int:
    gc.collect()
    return sum(isinstance(item, torch.Tensor) for item in gc.get_objects())


@pytest.mark.parametrize('name', DISTRIBUTED)
def test_number_of_tensors_does_not_grow(name):
    model = Network(name)
    x, target = batch(model.dims)
    rounds(model, x, target, 3)
    before = tensors()
    rounds(model, x, target, 20)
    assert tensors() <= before


@pytest.mark.long
@pytest.mark.parametrize('name', DISTRIBUTED)
def test_memory_does_not_grow_over_2000_rounds(name):
    model = Network(name)
    x, target = batch(model.dims)
    rounds(model, x, target, 200)
    before, peak = tensors(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rounds(model, x, target, 2000)
    # In KiB on Linux. One output tensor kept in each round would add 2.3 MiB for the smallest of them.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 1500
    assert tensors() <= before


@pytest.mark.parametrize('name', DISTRIBUTED)
def test_threads_share_a_model(name):
    """Eight threads with their own inputs, each inside its own block and all inside one."""
    model = Network(name).eval()
    x, _ = batch(model.dims)
    with torch.no_grad(), frozen_kernels(model):
        expected = [model(x[i : i + 1]) for i in range(8)]
    wrong, ready = [], threading.Barrier(8)

    def work(i: int) -> None:
        ready.wait()
        for _ in range(10):
            with torch.no_grad(), frozen_kernels(model):
                if not torch.equal(model(x[i : i + 1]), expected[i]):
                    wrong.append(i)

    with frozen_kernels(model):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
