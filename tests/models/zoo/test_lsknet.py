"""LSKNet: sizes, released names, its equations, frozen stages, operators, layer-wise learning rates."""

import copy
import math

import pytest
import torch
from torch import nn

pytest.importorskip('mmcv')
from mmkerv.errors import ArgumentError
from mmkerv.models import LSKBlock, LSKNet
from mmkerv.models.zoo.lsknet import LSKNetBlock
from mmkerv.ops import CoCConv2d, switch_to_deploy
from mmkerv.ops.core.base import Conv2d
from tests.ops.contract import relative

NARROW = {'dims': (4, 6, 8, 10), 'depths': (1, 2, 1, 1), 'mlp_ratios': (2, 2, 1.5, 2)}
COC = {'type': 'CoCConv'}


def narrow(seed=0, **settings):
    torch.manual_seed(seed)
    net = LSKNet(NARROW, **settings)
    net.init_weights()
    return net


def image(*shape, seed=0):
    return torch.randn(*(shape or (2, 3, 64, 64)), generator=torch.Generator().manual_seed(seed))


# Millions of parameters in the paper, which counts the classifier of 1000 classes.
@pytest.mark.parametrize(('arch', 'millions'), [('tiny', 4.3), ('small', 14.4)])
def test_the_sizes_of_the_paper(arch, millions):
    with torch.device('meta'):
        net = LSKNet(arch)
    counted = sum(p.numel() for p in net.parameters()) + 1000 * (net.dims[-1] + 1)
    # 4.247 and 14.354.
    assert counted / 1e6 == pytest.approx(millions, abs=0.06)


@torch.no_grad()
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=['contiguous', 'channels_last'])
def test_outputs_have_the_memory_layout_of_the_image(layout):
    net = narrow().eval().to(memory_format=layout)
    assert all(y.is_contiguous(memory_format=layout) for y in net(image().contiguous(memory_format=layout)))


def test_released_names():
    convs = ['attn.proj_1', 'attn.proj_2', 'mlp.fc1', 'mlp.dwconv.dwconv', 'mlp.fc2']
    gates = ['conv0', 'conv_spatial', 'conv1', 'conv2', 'conv_squeeze', 'conv']
    norm = {'weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked'}
    parts = {name: {'weight', 'bias'} for name in [*convs, *(f'attn.spatial_gating_unit.{g}' for g in gates)]}
    parts |= {'norm1': norm, 'norm2': norm}
    block = {f'{name}.{p}' for name, kinds in parts.items() for p in kinds} | {'layer_scale_1', 'layer_scale_2'}
    expected = set()
    for i, depth in enumerate((3, 3, 5, 2), 1):
        expected |= {f'patch_embed{i}.proj.weight', f'patch_embed{i}.proj.bias', f'norm{i}.weight', f'norm{i}.bias'}
        expected |= {f'patch_embed{i}.norm.{p}' for p in norm}
        expected |= {f'block{i}.{j}.{name}' for j in range(depth) for name in block}
    with torch.device('meta'):
        assert set(LSKNet('tiny').state_dict()) == expected


def test_a_block_computes_the_papers_equations():
    torch.manual_seed(0)
    block = LSKNetBlock(6, 2).double().train()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)

    def normalised(x, norm):
        centred = x - x.mean((0, 2, 3), keepdim=True)
        scale = (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
        return centred / scale * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)

    def dense(x, conv):
        return torch.einsum('nchw,oc->nohw', x, conv.weight[:, :, 0, 0]) + conv.bias.view(-1, 1, 1)

    def gelu(x):
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    attention, mlp = block.attn, block.mlp
    a = normalised(x, block.norm1)
    a = a + dense(attention.spatial_gating_unit(gelu(dense(a, attention.proj_1))), attention.proj_2)
    z = x + block.layer_scale_1.view(-1, 1, 1) * a
    m = dense(normalised(z, block.norm2), mlp.fc1)
    m = nn.functional.conv2d(m, mlp.dwconv.dwconv.weight, mlp.dwconv.dwconv.bias, padding=1, groups=12)
    expected = z + block.layer_scale_2.view(-1, 1, 1) * dense(gelu(m), mlp.fc2)
    assert relative(block(x), expected) < 1e-12


def test_each_stage_ends_in_a_layer_norm():
    net, x = narrow(out_indices=(1, 3)).double().eval(), image().double()
    with torch.no_grad():
        for norm in (net.norm1, net.norm2):
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_()
        y = x
        for i in (1, 2):
            y = getattr(net, f'patch_embed{i}')(y)
            for block in getattr(net, f'block{i}'):
                y = block(y)
            norm, centred = getattr(net, f'norm{i}'), y - y.mean(1, keepdim=True)
            y = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
            y = y * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
        outputs = net(x)
    assert relative(outputs[0], y) < 1e-12
    assert [tuple(o.shape) for o in outputs] == [(2, 6, 8, 8), (2, 10, 2, 2)]


def test_starts_as_published():
    torch.manual_seed(0)
    net = LSKNet({'dims': (32, 64, 64, 64), 'depths': (1,) * 4, 'mlp_ratios': (4,) * 4})
    net.init_weights()
    gates = net.block2[0].attn.spatial_gating_unit
    fans = {
        net.patch_embed1.proj: 49 * 32, net.block1[0].mlp.dwconv.dwconv: 9, net.block2[0].mlp.fc1: 256,
        gates.conv0: 25, gates.conv_spatial: 49, gates.conv1: 32, gates.conv: 64,
    }  # fmt: skip
    for conv, fan_out in fans.items():
        assert float(conv.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)
    assert not any(m.bias.any() for m in net.modules() if isinstance(m, nn.Conv2d))
    assert bool((net.block3[0].layer_scale_1 == 0.01).all())
    own = narrow(init_cfg={'type': 'Constant', 'layer': 'Conv2d', 'val': 0.25})
    assert bool((own.block1[0].attn.spatial_gating_unit.conv.weight == 0.25).all())


@pytest.mark.parametrize('frozen', [-1, 0, 2])
def test_frozen_stages_do_not_change(frozen):
    net = narrow(frozen_stages=frozen).train()
    before = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1.0)
    sum(y.square().mean() * (i + 1) + y[:, 0].mean() for i, y in enumerate(net(image()))).backward()
    optimizer.step()
    after = net.state_dict()
    changed = {name.partition('.')[0] for name in after if not torch.equal(after[name], before[name])}
    parts = {f'{part}{i}' for i in range(1, 5) for part in ('patch_embed', 'block', 'norm')}
    kept = {f'{part}{i}' for i in range(1, frozen + 1) for part in ('patch_embed', 'block', 'norm')}
    assert changed == parts - kept - ({'patch_embed1'} if frozen >= 0 else set())


def test_norm_eval_keeps_all_batch_norms():
    net = narrow(norm_eval=True).train()
    assert not any(m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert net.block1[0].training and net.norm1.training
    assert any(m.training for m in narrow().train().modules() if isinstance(m, nn.BatchNorm2d))


def test_recomputed_blocks_have_the_same_gradients():
    nets = [narrow(with_cp=with_cp).double().eval() for with_cp in (False, True)]
    gradients = []
    for net in nets:
        x = image().double().requires_grad_()
        sum(y.square().sum() for y in net(x)).backward()
        gradients.append([x.grad, *(p.grad for p in net.parameters())])
    assert all(relative(a, b) < 1e-10 for a, b in zip(*gradients))


def test_stochastic_depth_grows_with_the_depth():
    net = narrow(drop_path_rate=0.4)
    rates = [m.drop_path.drop_prob for m in net.modules() if isinstance(m, LSKNetBlock)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_other_norms():
    net = narrow(norm_cfg={'type': 'GN', 'num_groups': 2})
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert isinstance(net.patch_embed2.norm, nn.GroupNorm)


def test_operators_start_as_the_plain_network_and_fold():
    plain, net = narrow().eval(), narrow(conv_cfg=COC).eval()
    operators = {name for name, m in net.named_modules() if isinstance(m, CoCConv2d)}
    mlps = {f'block{i}.{j}.mlp.dwconv.dwconv' for i, depth in enumerate((1, 2, 1, 1), 1) for j in range(depth)}
    assert operators == mlps | {f'patch_embed{i}.proj' for i in range(1, 5)}
    assert all(relative(a, b) < 1e-5 for a, b in zip(net(image()), plain(image())))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, CoCConv2d):
                module.super_layers[0].weight.normal_(std=0.3)
    expected = net(image())
    assert relative(expected[3], plain(image())[3]) > 1e-2
    assert len(switch_to_deploy(net).replaced) == len(operators)
    assert set(net.state_dict()) == set(plain.state_dict())
    assert all(relative(a, b) < 1e-4 for a, b in zip(net(image()), expected))


def test_where_selects_stages_and_the_kernels_of_the_attention():
    net = narrow(conv_cfg=COC, where={'stages': (2,), 'stem': False})
    names = [name for name, m in net.named_modules() if isinstance(m, CoCConv2d)]
    assert names == ['patch_embed2.proj', *(f'block2.{j}.mlp.dwconv.dwconv' for j in range(2))]
    net = narrow(conv_cfg={'type': 'DCLSConv', 'kernel_extent': 9}, where={'names': r'conv0$'})
    assert all(isinstance(m.conv0, Conv2d) for m in net.modules() if isinstance(m, LSKBlock))
    assert sum(isinstance(m, Conv2d) for m in net.modules()) == 5
    with pytest.raises(ArgumentError, match=r'no convolution was replaced.*layers that are kept'):
        narrow(conv_cfg=COC, where={'kernel_sizes': (5,)})


def test_layers_for_layer_wise_rates():
    net = narrow()
    depths = {name: net.get_layer_depth(f'backbone.{name}', 'backbone.') for name, _ in net.named_parameters()}
    assert {count for _, count in depths.values()} == {7} and {depth for depth, _ in depths.values()} == set(range(6))
    assert depths['patch_embed1.norm.weight'][0] == 0 and depths['norm4.weight'][0] == 5
    assert depths['patch_embed2.proj.weight'][0] == depths['block2.0.layer_scale_1'][0] == 2
    assert depths['block2.1.mlp.fc1.bias'][0] == depths['norm2.bias'][0] == 3
    with pytest.raises(ArgumentError, match='no parameter'):
        net.get_layer_depth('stages.0.weight')


def test_an_empty_batch_and_other_sizes():
    net = narrow().eval()
    assert net(image(0, 3, 64, 32))[3].shape == (0, 10, 2, 1)
    assert [y.shape[2:] for y in net(image(1, 3, 37, 50))] == [(10, 13), (5, 7), (3, 4), (2, 2)]


def test_a_compiled_network_is_the_same():
    net = narrow().eval()
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend='aot_eager')
    assert all(relative(a, b) < 1e-5 for a, b in zip(compiled(image()), net(image())))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'arch': 'T'}, "arch must be one of 'tiny', 'small'"),
        ({'arch': {'dims': (4,) * 4}}, 'arch must have the keys'),
        ({'arch': {**NARROW, 'depths': (1, 1, 1)}}, r'arch\.depths'),
        ({'arch': {**NARROW, 'mlp_ratios': (4, 4)}}, 'one number for each of 4 stages'),
        ({'arch': {**NARROW, 'mlp_ratios': (0.1, 4, 4, 4)}}, r'arch\.mlp_ratios'),
        ({'out_indices': (0, 4)}, 'out_indices'),
        ({'frozen_stages': 5}, 'frozen_stages'),
        ({'drop_path_rate': 1.0}, 'drop_path_rate'),
        ({'where': {'stage': 1}}, 'where'),
    ],
    ids=['arch', 'keys', 'depths', 'ratios', 'ratio', 'outputs', 'frozen', 'drop', 'where'],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises((ArgumentError, TypeError), match=message):
        LSKNet(**{'arch': NARROW, **settings})
