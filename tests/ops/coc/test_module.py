"""CoCConv2d against the naive oracle in float64, its options, starts and degenerate cases, and the shared contract."""

import itertools

import pytest
import torch
from torch import nn

from mmkerv.errors import CheckpointMismatchError
from mmkerv.ops import CoCConv, CoCConv2d, spatial_association
from mmkerv.ops.coc import functional as association
from mmkerv.ops.coc.super_kernel import super_kernel
from tests.ops.coc.coc_operators import naive_kernel
from tests.ops.coc.coc_oracle import super_kernel_geometry
from tests.ops.contract import relative

SHARES = ['ci', 'co', 'cico', None]


def random_op(*args, **kwargs) -> CoCConv2d:
    """Build an operator in float64 with random parameters, super biases included."""
    torch.manual_seed(0)
    op = CoCConv2d(*args, dtype=torch.float64, **{'super_bias': True, **kwargs})
    with torch.no_grad():
        for p in op.parameters():
            p.normal_()
    return op


def check(op: CoCConv2d) -> None:
    assert relative(op.kernel(), naive_kernel(op)) < 1e-11


@pytest.mark.parametrize('share', SHARES)
@pytest.mark.parametrize('skip', [True, False])
@pytest.mark.parametrize('num_layers', [1, 2, 3])
def test_kernel_agrees_with_the_oracle_in_every_share_mode(share, skip, num_layers):
    check(random_op(3, 10, 3, share=share, skip=skip, num_layers=num_layers))


@pytest.mark.parametrize(('size', 'plus'), [*itertools.product((3, 5, 7), (0, 2, 4, 6))])
@pytest.mark.parametrize('dilate', [True, 'paper', False])
def test_kernel_agrees_with_the_oracle_for_every_size_of_the_table(size, plus, dilate):
    check(random_op(1, 4, size, kernel_plus=plus, dilate=dilate))


@pytest.mark.parametrize(
    'settings',
    [
        {'out_channels': 18},
        {'out_channels': 3},
        {'in_channels': 8, 'out_channels': 24, 'groups': 4},
        {'in_channels': 8, 'out_channels': 24, 'groups': 4, 'association': 3},
        {'in_channels': 4, 'out_channels': 20, 'groups': 4, 'num_layers': 2},
        {'in_channels': 10, 'out_channels': 10, 'groups': 10, 'num_layers': 2},
        {'in_channels': 6, 'out_channels': 12, 'groups': 6, 'share': 'co'},
        {'association': 1},
        {'association': 3, 'out_channels': 11, 'num_layers': 3, 'share': 'cico'},
        {'kernel_size': (3, 1)},
        {'kernel_size': (1, 7), 'share': 'co'},
        {'kernel_size': (5, 3), 'share': None},
        {'kernel_size': 1},
        {'super_bias': False, 'num_layers': 2},
        {'super_standardize': True, 'share': 'cico'},
        {'super_standardize': True, 'share': None},
        {'standardize': True},
        {'standardize': 'ln', 'groups': 3, 'out_channels': 12},
        {'super_norm': 'ln', 'out_channels': 10, 'num_layers': 2},
        {'super_norm': 'ln', 'skip': False},
        {'association': 4, 'kernel_size': 5, 'out_channels': 17},
    ],
    ids=str,
)
def test_kernel_agrees_with_the_oracle_with_padding_groups_and_norms(settings):
    check(random_op(**{'in_channels': 3, 'out_channels': 8, 'kernel_size': 3, **settings}))


def test_there_is_no_super_bias_by_default():
    assert CoCConv2d(4, 8, 3).super_layers[0].bias is None
    assert CoCConv2d(4, 8, 3, super_bias=True).super_layers[0].bias.shape == (2,)


@pytest.mark.parametrize('preset', ['standard', 'light'])
def test_official_presets_agree_with_the_oracle(preset):
    torch.manual_seed(0)
    op = CoCConv2d.official(preset, 3, 10, 3, dtype=torch.float64)
    check(op)
    assert op.super_layers[0].norm_weight.shape == (3, 6, 6) and op.kernel_norm_weight.shape == (3, 3, 3)
    assert op.super_layers[0].bias is None
    assert op.options.super_standardize is (preset == 'standard')
    with torch.no_grad():
        for p in op.parameters():
            p.normal_()
    check(op)


@pytest.mark.parametrize('preset', ['standard', 'light'])
def test_a_config_reaches_the_official_presets(preset):
    op = CoCConv(3, 10, 3, preset=preset)
    assert op.options == CoCConv2d.official(preset, 3, 10, 3).options
    assert op.options.super_norm == op.options.standardize == 'ln'
    assert CoCConv(3, 10, 3, preset=preset, standardize=False).options.standardize is False
    assert type(CoCConv(3, 10, 1, preset=preset)) is nn.Conv2d


@pytest.mark.parametrize('kernel_size', [1, 3])
@pytest.mark.parametrize('preset', ['heavy', ['light']])
def test_unknown_presets_are_refused(preset, kernel_size):
    with pytest.raises(ValueError, match="preset must be one of None, 'standard', 'light', got"):
        CoCConv(3, 10, kernel_size, preset=preset)


@pytest.mark.parametrize('share', ['ci', 'co', 'cico'])
def test_matrix_and_convolution_forms_agree(share, monkeypatch):
    op = random_op(8, 10, 3, share=share, num_layers=2)
    by_matrix = op.kernel()
    assert op._selector is not None
    monkeypatch.setattr(association, 'MATRIX_TAPS_LIMIT', 0)
    by_convolution = random_op(8, 10, 3, share=share, num_layers=2)
    assert relative(by_matrix, by_convolution.kernel()) < 1e-12
    assert by_convolution._selector is None


def test_spatial_association_gives_the_kernel_of_the_module():
    op = random_op(3, 10, 3, num_layers=2)
    kernel = spatial_association(
        op.weight,
        [layer.weight for layer in op.super_layers],
        [layer.bias for layer in op.super_layers],
        super_dilation=(2, 2),
    )
    assert torch.equal(kernel, op.kernel())


def test_spatial_association_rejects_a_wrong_shape():
    with pytest.raises(ValueError, match=r'must have shape \(2, 1, 3, 3\)'):
        spatial_association(torch.randn(8, 3, 3, 3), [torch.randn(3, 1, 3, 3)])


@pytest.mark.parametrize('share', SHARES)
@pytest.mark.parametrize('skip', [True, False])
@pytest.mark.parametrize('num_layers', [1, 3])
def test_identity_start_equals_the_plain_convolution(share, skip, num_layers):
    torch.manual_seed(0)
    op = CoCConv2d(5, 18, 3, padding=1, share=share, skip=skip, num_layers=num_layers, super_init='identity')
    torch.manual_seed(0)
    plain = nn.Conv2d(5, 18, 3, padding=1)
    x = torch.randn(2, 5, 6, 6)
    assert relative(op.kernel(), op.weight) < 1e-6
    assert relative(op(x), plain(x)) < 1e-6
    op(x).square().mean().backward()
    assert op.super_layers[0].weight.grad.abs().sum() > 0


def test_identity_start_works_with_a_layer_norm():
    op = CoCConv2d(5, 18, 3, super_norm='ln', super_init='identity')
    assert relative(op.kernel(), op.weight) < 1e-6
    assert op.super_layers[0].weight.abs().sum() > 0
    with torch.no_grad():
        op.super_layers[0].norm_weight.fill_(0.1)
    assert relative(op.kernel(), op.weight) > 0.01


def test_kaiming_start_changes_the_kernel():
    torch.manual_seed(0)
    op = CoCConv2d(16, 32, 3, super_init='kaiming')
    difference = op.kernel() - op.weight
    assert difference.norm().item() > 0.3 * op.weight.norm().item()


@pytest.mark.parametrize(
    ('options', 'start'),
    [
        ({}, 'identity'),
        ({'skip': False}, 'identity'),
        ({'super_norm': 'ln'}, 'identity'),
        ({'super_norm': 'ln', 'skip': False}, 'kaiming'),
        ({'super_standardize': True}, 'kaiming'),
        ({'standardize': True}, 'kaiming'),
        ({'standardize': 'ln'}, 'kaiming'),
        ({'super_init': 'kaiming'}, 'kaiming'),
    ],
    ids=str,
)
def test_repr_shows_the_start_that_auto_selects(options, start):
    assert f'super_init={start!r}' in repr(CoCConv2d(4, 8, 3, **options))


def test_zero_super_kernels_equal_the_plain_convolution():
    op = random_op(3, 8, 3)
    with torch.no_grad():
        for p in op.super_layers.parameters():
            p.zero_()
    assert torch.equal(op.kernel(), op.weight)


@pytest.mark.parametrize(('size', 'plus'), [*itertools.product((1, 3, 5, 7), (0, 2, 4, 6))])
@pytest.mark.parametrize('dilate', [True, 'paper', False])
def test_super_kernels_agree_with_the_table(size, plus, dilate):
    assert tuple(super_kernel(size, plus, dilate)) == super_kernel_geometry(size, plus, dilate)


@pytest.mark.parametrize('size', [9, 11, 13, 31])
def test_super_kernels_grow_beyond_the_table(size):
    extents = [super_kernel(size, plus).extent for plus in (0, 2, 4, 6, 8)]
    assert extents[0] > size and extents == sorted(set(extents))
    assert super_kernel(size, 2, 'paper').extent <= size + 2


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'kernel_size': 4}, 'odd'),
        ({'kernel_size': (3, 2), 'dilate': False}, 'odd'),
        ({'association': 0}, 'association must be >= 1'),
        ({'association': 1.5}, 'association'),
        ({'kernel_plus': 3}, 'kernel_plus must be even, got 3; use 2 or 4'),
        ({'kernel_plus': -2}, 'kernel_plus'),
        ({'num_layers': 0}, 'num_layers'),
        ({'share': 'cii'}, "did you mean 'ci'"),
        ({'dilate': 'yes'}, 'dilate'),
        ({'dilate': 1}, 'dilate'),
        ({'skip': 1}, 'skip must be True or False'),
        ({'super_init': 'zero'}, 'super_init'),
        ({'super_norm': 'bn'}, 'super_norm'),
        ({'super_norm': 'ln', 'share': 'co'}, "needs share='ci'"),
        ({'super_init': 'identity', 'standardize': True}, 'no identity'),
        ({'super_init': 'identity', 'super_standardize': True}, 'no identity'),
        ({'super_init': 'identity', 'super_norm': 'ln', 'skip': False}, 'no identity'),
        ({'asociation': 2}, "did you mean 'association'"),
        ({'kernel_size': 1, 'kernel_plus': 0, 'super_standardize': True}, 'more than one element'),
    ],
    ids=str,
)
@pytest.mark.parametrize('kind', [CoCConv, CoCConv2d])
def test_invalid_options_raise_an_error(kind, options, message):
    settings = {'in_channels': 3, 'out_channels': 8, 'kernel_size': 3, **options}
    if kind is CoCConv:
        settings['replace_1x1'] = True
    with pytest.raises((ValueError, TypeError), match=message):
        kind(**settings)


@pytest.mark.parametrize('size', [1, (1, 1)])
def test_a_1x1_convolution_stays_plain_but_its_options_are_checked(size):
    torch.manual_seed(0)
    conv = CoCConv(4, 8, size, stride=2, bias=False)
    torch.manual_seed(0)
    assert type(conv) is nn.Conv2d and torch.equal(conv.weight, nn.Conv2d(4, 8, 1, bias=False).weight)
    assert type(CoCConv(4, 8, size, replace_1x1=True)) is CoCConv2d
    assert type(CoCConv(4, 8, (1, 3))) is CoCConv2d
    with pytest.raises(ValueError, match='association'):
        CoCConv(4, 8, size, association=0)
    with pytest.raises(TypeError, match='asociation'):
        CoCConv(4, 8, size, asociation=2)


def test_super_kernels_add_few_parameters():
    op = CoCConv2d(512, 512, 3)
    assert op.super_layers[0].weight.shape == (128, 1, 3, 3)
    assert sum(p.numel() for p in op.super_layers.parameters()) < 1e-3 * op.weight.numel()


@pytest.mark.parametrize('strict', [True, False])
def test_a_layer_without_super_biases_rejects_a_checkpoint_with_them(strict):
    state = nn.Sequential(CoCConv2d(4, 8, 3, super_bias=True)).state_dict()
    with pytest.raises(CheckpointMismatchError, match=r'0\.super_layers\.0\.bias .* super_bias=True'):
        nn.Sequential(CoCConv2d(4, 8, 3)).load_state_dict(state, strict=strict)
    nn.Sequential(CoCConv2d(4, 8, 3, super_bias=True)).load_state_dict(state)
