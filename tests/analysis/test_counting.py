"""Multiply-adds of layers that mmengine alone does not count, against their formulas."""

import pytest

pytest.importorskip('mmengine')

import torch
import torch.nn.functional as F
from torch import nn

from mmkerv.analysis.counting import counted


class Attention(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x[..., :50, :], x[..., :50, :16])


def test_attention():
    with counted(Attention(), torch.rand(2, 4, 64, 32)) as counts:
        assert counts.total() == 2 * 4 * 64 * 50 * (32 + 16)


@pytest.mark.parametrize('name, offsets', [('DeformConv2dPack', 18), ('ModulatedDeformConv2dPack', 27)])
def test_deformable_convolutions(name, offsets):
    ops = pytest.importorskip('mmcv.ops')
    conv = getattr(ops, name)(4, 8, 3, padding=1, groups=2)
    with counted(conv, torch.rand(1, 4, 16, 16)) as counts:
        assert counts.total() == 16 * 16 * 9 * (offsets * 4 + 8 * 2)
