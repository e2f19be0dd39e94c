"""The contract of every operator with a basic kernel whose entry in the catalogue has a naive kernel."""

import pytest
import torch

from tests.ops.catalogue import CATALOGUE
from tests.ops.contract import OperatorContract
from tests.ops.folding_contract import FoldingContract
from tests.ops.oracle import convolution


class TestOperators(FoldingContract, OperatorContract):
    """The first variant of each, its own parameters moved away from their start."""

    @pytest.fixture(
        autouse=True,
        params=[name for name, entry in CATALOGUE.items() if entry.kernel is not None and entry.layer.has_weight],
    )
    def choose(self, request):
        entry = CATALOGUE[request.param]
        self.operator, self.options = entry.layer, next(iter(entry.variants.values())).options

    def make(self, *args, **kwargs):
        op = super().make(*args, **kwargs)
        with torch.no_grad():
            for name, parameter in op.own_parameters().items():
                parameter.add_(0.2 * torch.randn_like(parameter))
                # Within the limits, where the derivative is that of what is computed.
                if name == 'positions':
                    parameter.clamp_(-0.9, 0.9)
                elif name == 'radius':
                    parameter.clamp_(min=1.1)
        return op

    def expected(self, op, x):
        return torch.from_numpy(convolution(op, x)[0])
