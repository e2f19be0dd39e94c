"""Operators with random parameters, and the oracle's response for them."""

import torch
from torch import nn

from mmkerv.ops import CKConv1d, CKConv2d
from tests.ops.ckconv.ck_oracle import causal_sum, conv_loop, kernel_of, sampled

# Settings of a causal layer that most tests run with.
CAUSAL = {
    'plain': {},
    'groups': {'groups': 2},
    'depthwise': {'groups': 4, 'out_channels': 8},
    'separable': {'separable': True},
    'separable_groups': {'separable': True, 'groups': 2},
    'dilation': {'dilation': 3},
    'no_bias': {'bias': False},
    'one_tap': {'kernel_size': 1},
    'two_taps': {'kernel_size': 2},
    'relu': {'activation': 'relu', 'layers': 2},
    'swish': {'activation': 'swish', 'layers': 4},
    'rff': {'activation': 'rff', 'omega_0': 2.0},
}


def random_parameters(op: nn.Module) -> nn.Module:
    """Fill every parameter with random values and return the operator."""
    with torch.no_grad():
        for p in op.parameters():
            p.normal_()
    return op


def random_2d(*args, **kwargs) -> CKConv2d:
    """CKConv2d in float64 with random parameters."""
    torch.manual_seed(0)
    return random_parameters(CKConv2d(*args, **{'hidden': 6, 'dtype': torch.float64, **kwargs}))


def random_1d(*args, **kwargs) -> CKConv1d:
    """CKConv1d in float64 with random parameters."""
    torch.manual_seed(0)
    return random_parameters(CKConv1d(*args, **{'hidden': 6, 'dtype': torch.float64, **kwargs}))


def signal(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Random input that is the same in every test."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def response_2d(
    op: CKConv2d, x: torch.Tensor, ratio: tuple | None = None, padding: tuple | None = None
) -> torch.Tensor:
    """The oracle's response for the parameters and geometry of ``op``."""
    y = conv_loop(
        x,
        sampled(kernel_of(op), op.kernel_size, ratio),
        op.bias,
        stride=op.stride,
        padding=op.padding if padding is None else padding,
        dilation=op.dilation,
        groups=op.groups,
        padding_mode=op.padding_mode,
    )
    return torch.from_numpy(y)


def response_1d(op: CKConv1d, x: torch.Tensor, ratio=1) -> torch.Tensor:
    """The literal sum over the past for the parameters and geometry of a causal ``op``."""
    y = causal_sum(
        x,
        kernel_of(op),
        op.kernel_size[0],
        op.bias,
        ratio=ratio,
        dilation=op.dilation[0],
        stride=op.stride[0],
        groups=op.groups,
    )
    return torch.from_numpy(y)
