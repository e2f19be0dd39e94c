import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from mmkerv.ops.kerv.integer_power import integer_power


@pytest.mark.parametrize('degree', [1, 2, 3, 4, 5, 7, 8, 11])
def test_power_and_its_first_two_derivatives_are_correct(degree):
    torch.manual_seed(0)
    t = torch.randn(9, dtype=torch.float64, requires_grad=True)
    before = t.detach().clone()
    y = integer_power(t, degree)
    torch.testing.assert_close(y, t**degree)
    (slope,) = torch.autograd.grad(y.sum(), t)
    torch.testing.assert_close(slope, degree * t.detach() ** (degree - 1))
    assert torch.equal(t, before), 'products in place must leave their argument alone'
    assert gradcheck(lambda x: integer_power(x, degree), t) and gradgradcheck(lambda x: integer_power(x, degree), t)
