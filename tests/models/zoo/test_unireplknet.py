"""UniRepLKNet: released names and outputs, merging of blocks, frozen stages, layer-wise learning rates."""

import pytest
import torch
from torch import nn

pytest.importorskip('mmcv')
from mmkerv.engine import match_checkpoint, require_match
from mmkerv.errors import ArgumentError, ArgumentTypeError
from mmkerv.models.zoo.unireplknet import ARCHS, UniRepLKNet, UniRepLKNetBlock
from mmkerv.ops import ReparamConv2d, switch_to_deploy

TINY = {'depths': (1, 1, 3, 1), 'channels': 8, 'kernel_sizes': (3, 13, (13, 3, 13), 13)}


def tiny(**settings) -> UniRepLKNet:
    torch.manual_seed(0)
    net = UniRepLKNet(TINY, out_indices=(0, 1, 2, 3), gap_before_final_norm=False, **settings)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith('running_var'):
                value.uniform_(0.5, 2)
            elif value.is_floating_point():
                value.add_(0.2 * torch.randn_like(value))
    return net


@torch.no_grad()
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=['contiguous', 'channels_last'])
def test_outputs_have_the_memory_layout_of_the_image(layout):
    net = tiny().eval().to(memory_format=layout)
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=layout)
    assert all(y.is_contiguous(memory_format=layout) for y in net(x))


def released(name: str) -> str:
    """The name of a parameter in the public code."""
    name = name.replace('.dwconv.basic.norm.', '.dwconv.origin_bn.')
    if '.dwconv.parallel.' in name:
        head, tail = name.split('.dwconv.parallel.')
        branch, rest = tail.split('.', 1)
        size, dilation = branch.removeprefix('k').split('x')[0], branch.split('d')[1]
        kind = 'bn' if rest.startswith('norm.') else 'conv'
        return f'{head}.dwconv.dil_{kind}_k{size}_{dilation}.{rest.removeprefix("norm.")}'
    return name


@pytest.mark.parametrize('arch', ['A', 'T'])
def test_the_sizes_of_the_paper(arch):
    with torch.device('meta'):
        net = UniRepLKNet(arch)
    folded = sum(p.numel() for n, p in net.named_parameters() if 'parallel' not in n and '.norm.' not in n)
    # Published without the head of 1000 classes: 4.4 M and 31 M with it.
    head = 1000 * (net.channels[-1] + 1)
    assert round((folded + head) / 1e6, 1) == pytest.approx({'A': 4.4, 'T': 31.0}[arch], rel=0.03)
    assert [len(stage) for stage in net.stages] == list(ARCHS[arch]['depths'])


def test_released_names_load():
    net, other = tiny(), tiny()
    names = {}
    for name, value in net.state_dict().items():
        block = name.split('.dwconv.')[0]
        large = block != name and isinstance(net.get_submodule(f'{block}.dwconv'), ReparamConv2d)
        name = released(name)
        names[name.replace('.dwconv.weight', '.dwconv.lk_origin.weight') if large else name] = value
    assert any('dil_conv_k5_1.weight' in name for name in names)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert sorted(require_match(other, names, 'a.pth').loaded) == sorted(other.state_dict())
    inside = {f'backbone.{name}': value for name, value in names.items()}
    assert not match_checkpoint(nn.ModuleDict({'backbone': other}), inside).missing
    other.load_state_dict(names)
    x = torch.randn(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(net.eval()(x), other.eval()(x)))


def test_the_final_norm_of_a_released_classifier_is_the_last_outputs():
    net = UniRepLKNet(TINY)
    state = {key.replace('norm3.', 'norm.'): value for key, value in net.state_dict().items()}
    assert 'norm.weight' in state
    require_match(net, state, 'a.pth')
    net.load_state_dict(state)
    assert net.eval()(torch.randn(2, 3, 64, 64))[0].shape == (2, 64)


def test_a_block_merges_exactly_and_loads_its_merged_form():
    net = tiny().double().eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = net(x)
    assert len(switch_to_deploy(net).replaced) == 4
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(net(x), expected))
    net.switch_to_deploy()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-10) for a, b in zip(net(x), expected))
    merged = UniRepLKNet(TINY, out_indices=(0, 1, 2, 3), gap_before_final_norm=False, deploy=True).double().eval()
    merged.load_state_dict(net.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(merged(x), net(x)))


def test_a_block_computes_the_papers_equation():
    torch.manual_seed(0)
    block = UniRepLKNetBlock(8, 3, layer_scale=0.5).double().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64)
    y = block.norm(nn.functional.conv2d(x, block.dwconv.weight, padding=1, groups=8))
    gate = torch.sigmoid(block.se.up(torch.relu(block.se.down(nn.functional.adaptive_avg_pool2d(y, 1)))))
    y = nn.functional.gelu((y * gate).permute(0, 2, 3, 1) @ block.pwconv1[1].weight.T + block.pwconv1[1].bias)
    size = y.pow(2).sum((1, 2), keepdim=True).sqrt()
    response = block.act[1]
    y = response.gamma * (y * size / (size.mean(3, keepdim=True) + 1e-6)) + response.beta + y
    y = block.pwconv2[2]((y @ block.pwconv2[0].weight.T).permute(0, 3, 1, 2))
    assert torch.allclose(block(x), x + block.gamma.view(8, 1, 1) * y, atol=1e-12)


def test_frozen_stages_norm_eval_and_checkpointing():
    net = tiny(frozen_stages=2, norm_eval=True, with_cp=True).train()
    learns = {name.split('.')[1] for name, p in net.named_parameters() if p.requires_grad and 'norm' not in name[:4]}
    assert learns == {'2', '3'}
    assert not any(m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    sum(y.sum() for y in net(x)).backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_layers_for_layer_wise_rates():
    net = UniRepLKNet(TINY)
    names = ['downsample_layers.0.0.weight', 'stages.0.0.gamma', 'downsample_layers.3.0.weight', 'stages.2.2.gamma']
    assert [net.get_layer_depth(f'backbone.{name}', 'backbone.')[0] for name in names] == [0, 1, 12, 3]


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'arch': 'U'}, 'arch must be one of'),
        ({'arch': {'depths': (1, 1, 1, 1)}}, 'arch must have the keys'),
        ({'arch': {**TINY, 'kernel_sizes': (3, 13, (13, 3), 13)}}, 'one number for each of 3 blocks'),
        ({'arch': {**TINY, 'kernel_sizes': 3}}, 'one for each block, for each of 4 stages, got 3'),
        ({'arch': {**TINY, 'kernel_sizes': (3, 13, 13)}}, 'for each of 4 stages'),
        ({'arch': {**TINY, 'kernel_sizes': (4, 13, 13, 13)}}, r'arch.kernel_sizes must be odd .*use \(5,\)'),
        ({'arch': {**TINY, 'kernel_sizes': (3, 13, 13, -3)}}, 'arch.kernel_sizes must be >= 1, got -3'),
        ({'arch': {**TINY, 'kernel_sizes': (3, 13, 13, None)}}, 'arch.kernel_sizes must be an integer >= 1, got None'),
        ({'arch': {**TINY, 'kernel_sizes': (3, 13, 13, '13')}}, "arch.kernel_sizes must be an integer >= 1, got '13'"),
        ({'arch': {**TINY, 'kernel_sizes': (3, 13, 13, 19)}}, 'arch.kernel_sizes must be <= 17 in training.*got 19'),
        ({'arch': {**TINY, 'depths': (1, 1, 3)}}, 'arch.depths must be one integer or 4'),
        ({'arch': {**TINY, 'depths': None}}, 'arch.depths must be an integer'),
        ({'in_channels': 0}, 'in_channels must be >= 1, got 0'),
        ({'in_channels': '3'}, 'in_channels'),
        ({'out_indices': 4}, 'out_indices'),
        ({'out_indices': None}, 'out_indices must be an integer >= -4, got None'),
        ({'out_indices': 1.5}, 'out_indices must be an integer'),
        ({'frozen_stages': 5}, 'frozen_stages'),
        ({'layer_scale_init_value': None}, 'layer_scale_init_value must be a number >= 0, got None'),
        ({'with_cp': 'no'}, 'with_cp must be True or False'),
        ({'deploy': 1}, 'deploy must be True or False, got 1'),
        ({'drop_path_rate': 1.0}, 'drop_path_rate'),
    ],
    ids=str,
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        UniRepLKNet(**{'arch': TINY, **settings})
