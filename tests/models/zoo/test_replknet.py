"""``mmkerv.RepLKNet``: settings that mmpretrain ignores take effect, released keys fit, branches and operators fold."""

import pickle

import pytest
import torch
from torch import nn

pytest.importorskip('mmpretrain')

from mmcv.cnn.bricks.norm import SyncBatchNorm
from mmengine.registry import MODELS, DefaultScope

from mmkerv.deploy.upstream_step import merges_branches
from mmkerv.engine import require_match
from mmkerv.ops import switch_to_deploy
from mmkerv.ops.core.base import ConvNd

ARCH = dict(large_kernel_sizes=[9, 9, 7, 7], layers=[1, 1, 2, 1], channels=[8, 16, 24, 32], small_kernel=5, dw_ratio=1)


def build(scope='mmdet', kind='mmkerv.RepLKNet', **settings):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(dict(type=kind, arch=ARCH, out_indices=(0, 1, 2, 3), drop_path_rate=0.0) | settings)


def shaken(net):
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith('running_var'):
                value.uniform_(0.5, 2)
            elif value.is_floating_point():
                value.add_(0.1 * torch.randn_like(value))
    # Upstream's returns None.
    net.eval()
    return net


def sizes(net):
    return [tuple(y.shape[1:]) for y in net(torch.randn(1, 3, 64, 64))]


@torch.no_grad()
def test_released_detectors_have_no_norms_at_the_outputs():
    net = build()
    assert not [key for key in net.state_dict() if '.norm.' in key]
    upstream = build('mmpretrain', 'RepLKNet').state_dict()
    # The released checkpoint, which has the keys of the blocks, the stem and the transitions only.
    released = {key: value for key, value in upstream.items() if '.norm.' not in key}
    net.load_state_dict(released)
    assert sizes(net.eval()) == [(8, 16, 16), (16, 8, 8), (24, 4, 4), (32, 2, 2)]


@torch.no_grad()
def test_outputs_are_upstreams_where_it_has_the_same_norms():
    for settings in (dict(norm_intermediate_features=True), dict(out_indices=(3,))):
        upstream = shaken(build('mmpretrain', 'RepLKNet', **settings))
        net = build(**settings).eval()
        net.load_state_dict(upstream.state_dict())
        x = torch.randn(1, 3, 64, 64)
        assert all(torch.equal(a, b) for a, b in zip(net(x), upstream(x), strict=True))


def test_the_final_norm_of_a_released_classifier_is_the_last_stages():
    net = build(out_indices=(3,))
    released = {key.replace('stages.3.norm.', 'norm.'): torch.ones_like(v) for key, v in net.state_dict().items()}
    require_match(net, released, 'a.pth')
    net.load_state_dict(released)


@torch.no_grad()
def test_strides_and_norms_take_effect():
    net = build(strides=(2, 2, 1, 1), norm_cfg=dict(type='SyncBN')).eval()
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(m, SyncBatchNorm) for m in norms)
    assert sizes(build(strides=(2, 2, 1, 1)).eval()) == [(8, 16, 16), (16, 8, 8), (24, 8, 8), (32, 8, 8)]
    assert net.train() is net


FROZEN = ('stem', 'stages.0', 'transitions.0', 'stages.1', 'transitions.1', 'stages.2', 'transitions.2', 'stages.3')


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 4])
def test_frozen_stages_are_frozen_from_the_start_and_all_others_learn(frozen_stages, with_cp):
    net = build(frozen_stages=frozen_stages, with_cp=with_cp, conv_cfg=dict(type='CoCConv'))
    frozen = () if frozen_stages < 0 else tuple(f'{name}.' for name in FROZEN[: max(2 * frozen_stages, 1)])
    for _ in range(2):
        assert all(p.requires_grad != name.startswith(frozen) for name, p in net.named_parameters())
        net.train()
    assert all(m.training != f'{name}.'.startswith(frozen) for name, m in net.named_modules() if name.count('.') > 0)
    x = torch.randn(2, 3, 64, 64)
    if frozen_stages < 4:
        sum(y.square().sum() for y in net(x)).backward()
    assert not x.requires_grad and x.grad is None
    assert all((p.grad is None) == name.startswith(frozen) for name, p in net.named_parameters())


@torch.no_grad()
def test_operators_and_branches_fold():
    net = shaken(build(conv_cfg=dict(type='DCLSConv'), where=dict(stages=(2, 3), kernel_sizes=(5, 7, 9))))
    operators = [name for name, m in net.named_modules() if isinstance(m, ConvNd)]
    assert len(operators) == 6 and all(name.startswith(('stages.1', 'stages.2')) for name in operators)
    x = torch.randn(1, 3, 64, 64)
    expected = net(x)
    assert merges_branches(nn.ModuleDict({'backbone': net})) == 'small_kernel_merged'
    switch_to_deploy(net)
    net.switch_to_deploy()
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(net(x), expected))
    build(small_kernel_merged=True).load_state_dict(net.state_dict())


@torch.no_grad()
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=['contiguous', 'channels_last'])
def test_outputs_have_the_memory_layout_of_the_image(layout):
    net = build().eval().to(memory_format=layout)
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=layout)
    assert all(y.is_contiguous(memory_format=layout) for y in net(x))


def test_it_can_be_pickled_and_initialised():
    net = build(init_cfg=dict(type='Constant', layer='Conv2d', val=0.0), conv_cfg=dict(type='CoCConv'))
    net.init_weights()
    assert not net.stages[0].blocks[0].large_kernel.lkb_origin.conv.weight.any()
    assert type(pickle.loads(pickle.dumps(net))) is type(net)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(dilations=(1, 1, 2, 4)), r'dilations must be 1.*got \(1, 1, 2, 4\)'),
        (dict(strides=(2, 2)), r'strides must have one number for each of 4 stages, got \(2, 2\)'),
        (dict(norm_cfg=dict(type='GN', num_groups=1)), 'norm_cfg must be a batch norm'),
        (dict(frozen_stages=5), 'frozen_stages must be <= 4, got 5'),
        (dict(conv_cfg=dict(type='NoSuch')), "'NoSuch' is not an operator"),
    ],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)
