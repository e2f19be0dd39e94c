import pytest
import torch

pytest.importorskip('mmengine')

from torch import nn

from mmkerv.ops import CKConv2d
from tests.engine.tiny_runner import TinyModel, tiny_runner


class Resolutions(TinyModel):
    """A model that records the resolution of its predictions."""

    def __init__(self):
        super().__init__(CKConv2d)
        self.conv = CKConv2d(3, 8, 7, padding=3)
        self.seen = []

    def forward(self, inputs, target=None, mode='tensor'):
        self.seen.append((mode, self.conv.resolution))
        return super().forward(inputs, target, mode)


@pytest.mark.parametrize('frozen', [False, True])
def test_tests_at_another_resolution_and_restores_it(tmp_path, frozen):
    model = Resolutions()
    hooks = [dict(type='mmkerv.ResolutionHook', ratio=2.0)]
    hooks += [dict(type='mmkerv.FrozenKernelsHook')] * frozen
    runner = tiny_runner(tmp_path, model, custom_hooks=hooks, test_dataloader=None, test_cfg=None, test_evaluator=None)
    runner._test_dataloader, runner._test_loop = runner._val_dataloader, dict(type='TestLoop')
    runner._test_evaluator = runner._val_evaluator
    runner.train()
    assert {resolution for _, resolution in model.seen} == {(1.0, 1.0)}
    model.seen.clear()
    runner.test()
    assert {resolution for _, resolution in model.seen} == {(2.0, 2.0)}
    assert model.conv.resolution == (1.0, 1.0)


def test_a_model_without_continuous_kernels_is_refused(tmp_path):
    runner = tiny_runner(tmp_path, TinyModel(nn.Conv2d), custom_hooks=[dict(type='mmkerv.ResolutionHook', ratio=2)])
    with pytest.raises(ValueError, match='found no CKConv'):
        runner.call_hook('before_test')
    assert torch.isfinite(runner.model.norm.weight).all()
