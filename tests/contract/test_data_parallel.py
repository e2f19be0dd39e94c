"""Two gloo processes: the all-reduced gradient is the mean of the two half-batch gradients of one process."""

import pytest
import torch
import torch.multiprocessing as mp

pytest.importorskip('mmpretrain')

from mmkerv.ops import CoCConv2d
from tests.contract.halves import batch, classifier, loss_of, worker
from tests.contract.test_distribution import free_port


@pytest.mark.slow
def test_gradient_is_the_mean_of_the_halves(tmp_path):
    mp.start_processes(worker, args=(free_port(), str(tmp_path)), nprocs=2, start_method='spawn')
    expected: dict[str, torch.Tensor] = {}
    for rank in range(2):
        model = classifier()
        images, labels = batch()
        loss_of(model, images[2 * rank : 2 * rank + 2], labels[2 * rank : 2 * rank + 2]).backward()
        for name, p in model.named_parameters():
            expected[name] = expected.get(name, 0) + p.grad / 2
    assert sum(isinstance(m, CoCConv2d) for m in model.modules()) == 17
    assert any('super_layers' in name for name in expected)
    for rank in range(2):
        found = torch.load(tmp_path / f'{rank}.pth', weights_only=True)
        assert set(found) == set(expected)
        for name, gradient in found.items():
            error = (gradient - expected[name]).norm() / expected[name].norm().clamp_min(1e-12)
            assert error < 1e-5, (name, float(error))
