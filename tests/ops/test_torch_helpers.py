"""Every operator with torch's own tools: construction without memory, copies, fusing with a batch norm, types."""

import copy
import inspect
import pickle

import pytest
import torch
import torch.fx.experimental.optimization
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from mmkerv.ops import CKConv1d, CKConv2d, CoCConv2d, FoldError, KervConv2d, switch_to_deploy
from tests.ops.catalogue import FOLDED, VARIANTS, layer, sample, shape
from tests.ops.contract import relative


def build(label: str, **factory) -> nn.Module:
    kind, variant = VARIANTS[label]
    return kind(**shape(label), padding=variant.padding, **variant.options, **factory)


def moved(label: str) -> nn.Module:
    """Return the layer with parameters that differ from its start."""
    op = layer(label, 8, 8) if 'CoC' in label else layer(label)
    with torch.no_grad():
        for parameter in op.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    return op


def image(op: nn.Module) -> torch.Tensor:
    x = sample(op)
    return torch.cat([x, x], 1) if op.in_channels == 8 else x


def without_memory(label: str) -> nn.Module:
    with torch.device('meta'):
        return moved(label)


@pytest.mark.parametrize('label', VARIANTS)
@pytest.mark.parametrize('assign', [False, True], ids=['copied', 'assigned'])
def test_a_layer_built_on_the_meta_device_computes_with_the_weights_it_loads(label, assign):
    op, other = moved(label), without_memory(label)
    x = image(op)
    if not assign:
        other.to_empty(device='cpu')
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.data.fill_(7)
    other.load_state_dict(op.state_dict(), assign=assign)
    assert torch.equal(other(x), op(x))
    assert all(not t.is_meta for t in (*other.parameters(), *other.buffers()))


@pytest.mark.parametrize('label', VARIANTS)
def test_reset_parameters_after_to_empty_starts_a_fresh_layer(label):
    op, other = build(label), build(label, device='meta').to_empty(device='cpu')
    for tensor in (*other.parameters(), *other.buffers()):
        tensor.data.fill_(float('nan') if tensor.is_floating_point() else 7)
    for one in (op, other):
        torch.manual_seed(3)
        one.reset_parameters()
    assert all(torch.equal(a, b) for a, b in zip(op.state_dict().values(), other.state_dict().values()))
    x = sample(op)
    assert torch.equal(other(x), op(x))


@pytest.mark.parametrize('label', VARIANTS)
def test_skip_init_builds_a_layer(label):
    kind, variant = VARIANTS[label]
    op = moved(label)
    settings = shape(label, op.in_channels, op.out_channels)
    other = nn.utils.skip_init(kind, **settings, padding=variant.padding, **variant.options)
    other.load_state_dict(op.state_dict())
    assert torch.equal(other(image(op)), op(image(op)))


@pytest.mark.parametrize('label', VARIANTS)
def test_copies_compute_the_same_also_in_other_types(label):
    op = moved(label)
    x, y = image(op), op(image(op))
    assert [name for name, _ in op.named_buffers() if name not in op.state_dict()] == []
    for other in (copy.deepcopy(op), pickle.loads(pickle.dumps(op)), copy.deepcopy(op).to(torch.device('cpu'))):
        assert torch.equal(other(x), y)
    assert relative(copy.deepcopy(op).double()(x.double()), y) < 1e-4
    assert relative(copy.deepcopy(op).bfloat16().float()(x), copy.deepcopy(op).float().bfloat16().float()(x)) == 0
    copied = copy.deepcopy(op)
    with torch.inference_mode():
        # Without gradients another form of the convolution may be the cheaper one.
        expected = op(x)
        assert torch.equal(copied(x), expected) and relative(expected, y) < 1e-5
    copied(x.requires_grad_()).sum().backward()


@pytest.mark.parametrize('label', VARIANTS)
def test_takes_the_arguments_of_torchs_convolutions_under_their_names_and_positions(label):
    op = build(label)
    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[op.dims - 1]
    names = list(inspect.signature(plain).parameters)
    assert list(inspect.signature(type(op)).parameters)[: len(names)] == names
    channels, variant = (op.in_channels, op.out_channels), VARIANTS[label][1]
    geometry = (*channels, variant.kernel_size, 1, variant.padding, 1, op.groups, False, 'zeros', 'meta', torch.float64)
    kind = type(op)(*geometry, **variant.options)
    assert kind.bias is None and all(p.is_meta and p.dtype == torch.float64 for p in kind.parameters())
    assert torch.equal(op(input=sample(op)), op(sample(op)))


def norm(op: nn.Module) -> nn.Module:
    bn = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[op.dims - 1](op.out_channels).eval()
    with torch.no_grad():
        bn.running_mean.uniform_(-1, 1)
        for tensor in (bn.running_var, bn.weight):
            tensor.uniform_(0.5, 2)
    return bn


FOLDED_IF_ASKED = [label for label, (kind, _) in VARIANTS.items() if kind.costs_more_folded]
CAUSAL = [label for label, (kind, _) in VARIANTS.items() if kind is CKConv1d and label != 'CK 1d centred']


HOOKS = (
    *('register_forward_pre_hook', 'register_forward_hook'),
    *('register_full_backward_pre_hook', 'register_full_backward_hook'),
)


# A causal layer folds into a padding and a convolution.
@pytest.mark.parametrize('label', [*(label for label in FOLDED if label not in CAUSAL), *FOLDED_IF_ASKED])
def test_fuse_conv_bn_eval_gets_the_folded_layer(label):
    op = moved(label).eval()
    bn, x = norm(op), image(op)
    fused = fuse_conv_bn_eval(op, bn)
    assert type(fused) is (nn.Conv1d, nn.Conv2d, nn.Conv3d)[op.dims - 1]
    assert relative(fused(x), bn(op(x))) < 1e-5
    model = nn.Sequential(op, bn)
    assert torch.equal(torch.fx.experimental.optimization.fuse(model)(x), model(x))
    assert type(copy.deepcopy(op)) is type(op)


@pytest.mark.parametrize('label', [*(label for label in VARIANTS if label not in (*FOLDED, *FOLDED_IF_ASKED)), *CAUSAL])
def test_fuse_conv_bn_eval_refuses_what_is_no_single_convolution(label):
    op = moved(label).eval()
    with pytest.raises(FoldError, match=r'leave the norm|fuse the norm into the last'):
        fuse_conv_bn_eval(op, norm(op))


@pytest.mark.parametrize('register', HOOKS)
def test_fuse_conv_bn_eval_refuses_hooks(register):
    op = moved('CoC').eval()
    getattr(op, register)(lambda *_: None)
    with pytest.raises(FoldError, match='hooks'):
        fuse_conv_bn_eval(op, norm(op))


def accepts(op: nn.Module, x: torch.Tensor, mixed: bool) -> bool:
    try:
        with torch.autocast('cpu', torch.bfloat16, enabled=mixed):
            op(x)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize('mixed', [False, True], ids=['exact', 'autocast'])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.int64, torch.bool, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize('label', VARIANTS)
def test_refuses_the_types_of_input_that_torchs_convolutions_refuse(label, dtype, mixed):
    op = layer(label)
    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[op.dims - 1](4, 8, 3)
    x = sample(op).mul(100).to(dtype)
    assert accepts(op, x, mixed) == accepts(plain, x, mixed)


@pytest.mark.parametrize('method', ['auto', 'direct', 'fft'])
@pytest.mark.parametrize('side', [9, 32])
def test_a_continuous_kernel_refuses_integers_by_every_method(method, side):
    with pytest.raises(RuntimeError):
        CKConv2d(4, 8, 3, padding=1, method=method)(torch.ones(1, 4, side, side, dtype=torch.uint8))


def test_a_continuous_kernel_refuses_integers_with_times():
    op = VARIANTS['CK 1d causal'][0](4, 8, 5)
    with pytest.raises(RuntimeError, match=r'torch\.int64'):
        op(torch.ones(1, 4, 3, dtype=torch.int64), times=torch.arange(3.0))


@pytest.mark.parametrize(('method', 'spoiled'), [('fft', 9 * 9), ('direct', 3 * 3)])
def test_a_pixel_that_is_no_number_spoils_the_image_by_fft_and_its_window_directly(method, spoiled):
    x = torch.ones(2, 4, 9, 9)
    x[0, 0, 4, 4] = float('nan')
    y = CKConv2d(4, 8, 3, padding=1, method=method)(x)
    assert int(y[0, 0].isnan().sum()) == spoiled and not y[1].isnan().any()


@pytest.mark.parametrize('label', VARIANTS)
def test_a_symbolic_trace_holds_the_layer_as_one_call(label):
    model = nn.Sequential(layer(label), nn.Tanh()).eval()
    traced = torch.fx.symbolic_trace(model)
    assert [(node.op, node.target) for node in traced.graph.nodes][1:3] == [('call_module', '0'), ('call_module', '1')]
    x = sample(model[0])
    assert torch.equal(traced(x), model(x))
    if label in FOLDED:
        assert switch_to_deploy(traced).replaced == ['0']
        assert relative(traced(x), model(x)) < 1e-5


def test_a_symbolic_trace_keeps_the_further_arguments_of_a_call():
    class Sampled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = VARIANTS['CK 1d causal'][0](4, 8, 9)

        def forward(self, x, times):
            return self.conv(x, times=times)

    model, x, times = Sampled(), torch.randn(2, 4, 5), torch.arange(5.0) * 0.5
    assert torch.equal(torch.fx.symbolic_trace(model)(x, times), model(x, times))


def test_efficient_conv_bn_eval_is_told_to_fold_what_folds():
    for options, advice in (({'kernel': 'linear'}, 'Fold'), ({'degree': 1}, 'Fold'), ({}, 'no convolution')):
        op = KervConv2d(4, 8, 3, **options)
        with pytest.raises(RuntimeError, match=advice):
            op._conv_forward(torch.ones(1, 4, 5, 5), op.weight, op.bias)


class Derived(CoCConv2d):
    """A user's subclass of an operator."""


@pytest.mark.parametrize('label', VARIANTS)
def test_initialisers_by_class_name_find_subclasses_and_parametrised_layers(label):
    op = layer(label)
    name = f'Conv{op.dims}d'
    parametrised = copy.deepcopy(op)
    nn.utils.parametrize.register_parametrization(parametrised, 'bias', nn.Identity())
    subclass = type('Sub', (type('Mixed', (type(op),), {}),), {})
    for kind in (type(op), type(parametrised), subclass):
        assert [base.__name__ for base in kind.__bases__].count(name) == 1
    assert torch.equal(copy.deepcopy(parametrised)(sample(op)), parametrised(sample(op)))
    assert relative(parametrised(sample(op)), op(sample(op))) < 1e-5


def test_init_cfg_initialises_a_subclass_like_a_plain_convolution():
    initialize = pytest.importorskip('mmengine.model').initialize
    layers = [nn.Conv2d(8, 8, 3), Derived(8, 8, 3)]
    for one in layers:
        torch.manual_seed(0)
        initialize(nn.Sequential(one), dict(type='Kaiming', layer='Conv2d'))
    assert torch.equal(layers[0].weight, layers[1].weight) and not layers[1].bias.any()
    assert torch.equal(pickle.loads(pickle.dumps(layers[1])).weight, layers[1].weight)
