"""The bases of the five families, each by the smallest operator of its kind."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmkerv.ops.core.geometry import embedded
from tests.ops.contract import OperatorContract
from tests.ops.examples import EveryOtherConv2d, GatedConv2d, MaskedConv, MaskedConv2d, PowerConv2d, TwoBranchConv2d
from tests.ops.family_contracts import BranchesContract, DynamicContract, ResponseContract, SplitContract
from tests.ops.folding_contract import FoldingContract


def convolve(op: nn.Module, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Torch's convolution in float64 with the geometry of ``op``."""
    width = kernel.shape[1] * op.groups
    plain = nn.Conv2d(
        width, len(kernel), op.kernel_size, op.stride, op.padding, op.dilation, op.groups, padding_mode=op.padding_mode
    ).double()
    with torch.no_grad():
        plain.weight.copy_(kernel)
        plain.bias.copy_(torch.zeros(len(kernel)) if bias is None else bias)
    return plain(x.double())


class TestGenerated(FoldingContract, OperatorContract):
    operator = MaskedConv2d

    def make(self, *args, **kwargs):
        op = super().make(*args, **kwargs)
        nn.init.normal_(op.mask)
        return op

    def expected(self, op, x):
        kernel = op.weight.double() * 2 / (1 + torch.exp(-op.mask.double()))
        return convolve(op, x, kernel, op.bias)


class TestBranches(BranchesContract):
    operator = TwoBranchConv2d

    def expected(self, op, x):
        outputs = []
        for kernel, norm in zip((op.weight, embedded(op.pointwise, 1, (3, 3))), op.norms):
            statistics = (v.double() for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
            outputs.append(F.batch_norm(convolve(op, x, kernel, None), *statistics, False, 0, norm.eps))
        return sum(outputs) if op.bias is None else sum(outputs) + op.bias.double().view(-1, 1, 1)


class TestSplit(SplitContract):
    operator = EveryOtherConv2d

    def expected(self, op, x):
        kernel = torch.zeros(8, 4 // op.groups, *op.kernel_size, dtype=torch.float64)
        kernel[::2] = op.large
        kernel[1::2, :, 1:2, 1:2] = op.small
        return convolve(op, x, kernel, op.bias)


class TestDynamic(DynamicContract):
    operator = GatedConv2d

    def make(self, *args, **kwargs):
        op = super().make(*args, **kwargs)
        nn.init.normal_(op.gate)
        return op

    def expected(self, op, x):
        answers = []
        for sample in x.double():
            scale = 1 + op.gate.double() * sample.mean()
            answers.append(convolve(op, sample[None], scale.view(-1, 1, 1, 1) * op.weight.double(), op.bias))
        return torch.cat(answers)


class TestResponse(ResponseContract):
    operator = PowerConv2d
    options = {'power': 2}
    linear = {'power': 1}

    def expected(self, op, x):
        y = convolve(op, x, op.weight.double(), None) ** 2
        return y if op.bias is None else y + op.bias.double().view(-1, 1, 1)


def test_the_signature_names_the_options():
    parameters = inspect.signature(MaskedConv2d).parameters
    assert list(parameters)[:9] == list(inspect.signature(nn.Conv2d).parameters)[:9]
    assert parameters['sharpness'].kind is inspect.Parameter.KEYWORD_ONLY and parameters['sharpness'].default == 1.0


def test_options_are_checked_stored_and_printed():
    op = MaskedConv2d(4, 8, 3, sharpness=2.0)
    assert (
        op.options.sharpness == 2.0 and 'sharpness=2.0' in repr(op) and 'sharpness' not in repr(MaskedConv2d(4, 8, 3))
    )
    with pytest.raises(TypeError, match="MaskedConv2d has no argument 'sharpnes'; did you mean 'sharpness'"):
        MaskedConv2d(4, 8, 3, sharpnes=2.0)
    with pytest.raises(ValueError, match='sharpness must be > 0'):
        MaskedConv2d(4, 8, 3, sharpness=0.0)


def test_a_face_leaves_1x1_plain_but_checks_the_options():
    assert type(MaskedConv(4, 8, 1)) is nn.Conv2d and type(MaskedConv(4, 8, (1, 3))) is MaskedConv2d
    assert type(MaskedConv(4, 8, 1, replace_1x1=True)) is MaskedConv2d
    assert MaskedConv.short_name == 'masked' and not MaskedConv.takes_1x1
    with pytest.raises(ValueError, match='sharpness'):
        MaskedConv(4, 8, 1, sharpness=-1.0)
    with pytest.raises(TypeError, match="MaskedConv has no argument 'replace1x1'; did you mean 'replace_1x1'"):
        MaskedConv(4, 8, 1, replace1x1=True)


def test_the_class_answers_what_others_ask():
    op = MaskedConv2d(4, 8, 3)
    assert list(op.own_parameters()) == ['mask'] and op.no_decay == ('mask',) and op.starts_as_identity
    assert torch.equal(op.kernel(), op.weight) and MaskedConv.deploy_cfg({'type': 'MaskedConv'}) is None
