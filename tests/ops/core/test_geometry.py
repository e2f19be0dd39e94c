"""Memory formats: the same answer with and without torch.compile, which torch 2.1 gives for fixed sizes only."""

import pytest
import torch
from torch import Tensor

from mmkerv.ops.core.geometry import memory_format

SHAPES = [(2, 3, 9, 8), (2, 3, 12, 5), (4, 1, 6, 7), (1, 5, 1, 1), (2, 3, 1, 4), (1, 1, 3, 3)]


def _layouts(shape: tuple[int, ...]) -> list[Tensor]:
    x = torch.zeros(shape)
    return [x, x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3), x[..., :1], x.permute(1, 0, 2, 3)]


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_channels_last_is_a_layout_that_is_not_contiguous(shape):
    for x in _layouts(shape):
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        assert memory_format(x) is (torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize('layout', range(5))
def test_the_memory_format_is_the_same_in_a_compiled_function(layout):
    def answer(x: Tensor) -> Tensor:
        return x + (1.0 if memory_format(x) is torch.channels_last else 2.0)

    torch._dynamo.reset()
    compiled = torch.compile(answer, fullgraph=True, backend='aot_eager', dynamic=True)
    for shape in SHAPES:
        x = _layouts(shape)[layout]
        assert torch.equal(compiled(x), answer(x)), (shape, x.stride())
