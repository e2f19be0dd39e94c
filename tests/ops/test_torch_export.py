"""torch.export of every operator, in training and folded: one graph of torch's operations for any batch and size."""

import copy

import pytest
import torch
from torch import nn

from mmkerv.ops import switch_to_deploy
from tests.ops.catalogue import FOLDED, VARIANTS, layer, sample
from tests.ops.contract import relative

pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split('.')[:2])) < (2, 6), reason='torch.export is for torch >= 2.6'
)
# Of sequences shorter than its kernel a causal layer samples less of it.
LOWEST = {'CK 1d causal': 12}


def exported(model: nn.Module, x: torch.Tensor, name: str) -> nn.Module:
    from torch.export import Dim, export

    sides = {axis: Dim(f'side{axis}', min=LOWEST.get(name, 6), max=256) for axis in range(2, x.dim())}
    axes = {0: Dim('batch', min=1, max=64), **sides}
    program = export(model, (x,), dynamic_shapes=(axes,))
    graphs = [module.graph for module in program.graph_module.modules() if hasattr(module, 'graph')]
    nodes = [str(node.target) for graph in graphs for node in graph.nodes]
    assert len(nodes) > 3 and not any('mmkerv' in node for node in nodes), 'an operation only mmkerv knows'
    return program.module()


@pytest.mark.parametrize('name', VARIANTS)
def test_the_exported_layer_is_the_layer_and_trains(name):
    model = nn.Sequential(layer(name), nn.LeakyReLU())
    program = exported(copy.deepcopy(model), sample(model[0]), name)
    for batch, side in ((2, 7), (1, 7), (3, 9)):
        x = sample(model[0], batch, side)
        assert relative(program(x), model(x)) < 1e-5

    x = sample(model[0])
    for network in (model, program):
        network(x).square().mean().backward()
    gradients = {key: p.grad for key, p in program.named_parameters()}
    assert gradients.keys() == dict(model.named_parameters()).keys()
    for key, p in model.named_parameters():
        assert relative(gradients[key], p.grad) < 1e-4, key


@pytest.mark.parametrize('name', FOLDED)
def test_the_exported_folded_layer_is_the_layer(name):
    model = nn.Sequential(layer(name)).eval()
    x = sample(model[0])
    expected = model(x)
    assert switch_to_deploy(model).replaced == ['0']
    assert relative(exported(model, x, name)(x), expected) < 1e-5
