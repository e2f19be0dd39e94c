import pytest
import torch
from torch import nn

from mmkerv.deploy.model_outputs import largest_difference
from mmkerv.ops import CoCConv2d


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('share', ['ci', 'co', 'cico', None])
def test_outputs_have_the_memory_layout_of_a_plain_convolutions(share, layout):
    """mmcv's RoIAlign reads its input as if it were contiguous."""
    operator = CoCConv2d(8, 16, 3, share=share, super_init='kaiming').to(memory_format=layout)
    plain = nn.Conv2d(8, 16, 3).to(memory_format=layout)
    x = torch.randn(2, 8, 6, 6).to(memory_format=layout)
    for conv in (operator, operator.to_conv2d()):
        assert conv(x).stride() == plain(x).stride()
    assert operator.kernel().stride() == operator.to_conv2d().weight.stride() == plain.weight.stride()


NAN = torch.tensor([1.0, float('nan')])


@pytest.mark.parametrize(
    'first, second, expected',
    [
        ([torch.tensor([1.0, 4.0])], [torch.tensor([1.0, 4.4])], 0.1),
        ([torch.ones(2), torch.tensor([100.0])], [torch.ones(2), torch.tensor([101.0])], 0.01),
        ([torch.ones(2), 2 * torch.ones(2)], [torch.ones(2) * 1.5, 2 * torch.ones(2)], 0.5),
        ([torch.zeros(2)], [torch.zeros(2)], 0.0),
        ([torch.zeros(0, 4)], [torch.zeros(0, 4)], 0.0),
        ([torch.ones(2)], [torch.ones(3)], float('inf')),
        ([torch.ones(2)], [], float('inf')),
        ([], [], float('inf')),
        ([NAN], [NAN], float('inf')),
        ([NAN, torch.ones(1)], [torch.ones(2), torch.ones(1)], float('inf')),
        ([torch.ones(2)], [NAN], float('inf')),
        ([torch.full((1,), float('inf'))], [torch.full((1,), float('inf'))], float('inf')),
    ],
)
def test_largest_difference_is_relative_to_each_output(first, second, expected):
    assert largest_difference(first, second) == pytest.approx(expected)
