import pytest
import torch

from mmkerv.ops import CoCConv2d, KervConv2d
from tests.engine.tiny_runner import TinyModel, tiny_runner

CPU_AMP = dict(type='mmkerv.CpuAmpOptimWrapper', optimizer=dict(type='SGD', lr=0.1), clip_grad=dict(max_norm=1.0))


@pytest.mark.parametrize(('conv', 'response'), [(CoCConv2d, torch.bfloat16), (KervConv2d, torch.float32)])
def test_training_runs_in_bfloat16_and_validation_in_float32(tmp_path, conv, response):
    # A bias before batch norm has no gradient.
    model, seen = TinyModel(conv, bias=False), []
    model.conv.register_forward_hook(lambda layer, inputs, output: seen.append((layer.training, output.dtype)))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tiny_runner(tmp_path, model, optim_wrapper=CPU_AMP).train()
    assert set(seen) == {(True, response), (False, torch.float32)}
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32 and torch.isfinite(parameter).all()
        assert not torch.equal(parameter, before[name]), name
