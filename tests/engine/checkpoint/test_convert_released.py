"""Released layouts of UniRepLKNet (written) and of the Shift-ConvNets authors (read)."""

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('mmcv')

from mmkerv.engine.checkpoint.convert_released import released_names
from mmkerv.engine.checkpoint.convert_shiftwise import restore_channel_order
from mmkerv.errors import CheckpointMismatchError
from mmkerv.models.zoo.unireplknet import UniRepLKNet
from mmkerv.ops import ShiftwiseConv2d
from mmkerv.ops.shiftwise import released_orders
from tests.ops.contract import relative

ARCH = {'depths': (1, 1, 2, 1), 'channels': 8, 'kernel_sizes': (3, 13, (7, 3), 13)}


@pytest.mark.parametrize('merged', [False, True])
def test_released_names_of_unireplknet_load_again(merged):
    torch.manual_seed(0)
    model = UniRepLKNet(ARCH).eval()
    if merged:
        model.switch_to_deploy()
    classifier = {f'backbone.{key}': value for key, value in model.state_dict().items()}
    theirs = released_names({**classifier, 'head.fc.weight': torch.ones(3, 64)})
    large = {'stages.1.0.dwconv.lk_origin.weight', 'stages.2.0.dwconv.lk_origin.weight', 'stages.2.1.dwconv.weight'}
    assert {*large, 'norm.weight', 'head.weight', 'downsample_layers.0.0.weight'} <= set(theirs)
    if merged:
        assert 'stages.1.0.dwconv.lk_origin.bias' in theirs
    else:
        block = 'stages.1.0.dwconv.'
        assert {f'{block}origin_bn.running_var', f'{block}dil_conv_k5_1.weight', f'{block}dil_bn_k3_5.bias'} <= {
            *theirs
        }
    assert not any(word in key for key in theirs for word in ('parallel', 'basic', 'backbone'))
    other = UniRepLKNet(ARCH, deploy=merged).eval()
    theirs.pop('head.weight')
    other.load_state_dict(theirs)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(other(x)[0], model(x)[0])


def test_names_of_a_detector_keep_their_parts():
    model = UniRepLKNet(ARCH, out_indices=(0, 1, 2, 3), gap_before_final_norm=False)
    detector = {f'backbone.{key}': value for key, value in model.state_dict().items()}
    theirs = released_names({**detector, 'neck.a': torch.zeros(1)})
    assert {'backbone.norm3.weight', 'backbone.stages.1.0.dwconv.lk_origin.weight', 'neck.a'} <= set(theirs)
    with pytest.raises(CheckpointMismatchError, match=r"'a.pth' is not of mmkerv.UniRepLKNet"):
        released_names({'conv1.weight': torch.zeros(1)}, 'a.pth')


class Authors(nn.Module):
    """The authors' block up to its first linear layer: their order of the channels, and their global seeds."""

    def __init__(self, channels: int, layer: ShiftwiseConv2d, orders: dict):
        super().__init__()
        self.layer, self.kept = layer, orders['channels']
        self.ghosts = torch.tensor(sorted(set(range(channels)) - set(self.kept.tolist())))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return torch.cat([y[:, self.kept], y[:, self.ghosts]], 1)


def test_the_orders_are_those_of_the_authors_seeds():
    """Their constructor seeds the global generators, then draws."""
    orders = released_orders(16, 12, 5, 4)
    torch.manual_seed(123)
    along = [torch.stack([torch.stack([torch.randperm(5) for _ in range(12)]) for _ in range(4)]) for _ in range(2)]
    centre = torch.stack([torch.randint(0, 5, [12]) for _ in range(4)])
    np.random.seed(123)
    ghosts = np.sort(np.random.choice(16, 4, replace=False))
    assert torch.equal(orders['along_width'], along[0]) and torch.equal(orders['along_height'], along[1])
    assert torch.equal(orders['centre'], centre)
    assert sorted({*orders['channels'].tolist(), *ghosts.tolist()}) == list(range(16))
    assert orders['channels'].tolist() == sorted(orders['channels'].tolist())


@torch.no_grad()
def test_a_released_layer_loads_and_its_neighbours_are_permuted():
    torch.manual_seed(0)
    settings = dict(padding=1, groups=16, bias=False, kernel_extent=13, paths=2)
    theirs, ours = ShiftwiseConv2d(16, 16, 3, **settings).eval(), ShiftwiseConv2d(16, 16, 3, **settings).eval()
    orders = released_orders(16, 12, 5, 4)
    for name, order in orders.items():
        getattr(theirs, name).copy_(order)
    for tensor in theirs.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    block = nn.ModuleDict({'norm': nn.BatchNorm2d(16), 'pwconv1': nn.Conv2d(16, 8, 1)}).eval()
    for tensor in block.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    renamed = {'paths': 'LoRAs', 'norm_width': 'bn_lora1', 'norm_height': 'bn_lora2', 'norm_centre': 'bn_small'}
    released = {f'stages.0.{key}': value for key, value in block.state_dict().items()}
    for key, value in theirs.state_dict().items():
        first, _, rest = key.partition('.')
        if first in renamed:
            released[f'stages.0.dwconv.{renamed[first]}.{rest}'] = value
    x = torch.randn(2, 16, 19, 19)
    expected = block['pwconv1'](block['norm'](Authors(16, theirs, orders)(x)))

    restored = restore_channel_order(released)
    assert set(restored) == set(released)
    own = nn.ModuleDict({'dwconv': ours, 'norm': nn.BatchNorm2d(16), 'pwconv1': nn.Conv2d(16, 8, 1)}).eval()
    state = torch.get_rng_state()
    own.load_state_dict({key.removeprefix('stages.0.'): value for key, value in restored.items()})
    assert torch.equal(state, torch.get_rng_state())
    assert relative(own['pwconv1'](own['norm'](own['dwconv'](x))), expected) < 1e-5
    own.load_state_dict({key.removeprefix('stages.0.'): value for key, value in released.items()})
    assert relative(own['pwconv1'](own['norm'](own['dwconv'](x))), expected) > 1e-3, 'the order matters'


def test_checkpoints_without_the_layer_or_its_neighbours_are_refused():
    with pytest.raises(CheckpointMismatchError, match='has no shift-wise layer'):
        restore_channel_order({'a': torch.zeros(1)})
    with pytest.raises(CheckpointMismatchError, match='cannot be restored'):
        restore_channel_order({'b.dwconv.LoRAs.0.weight': torch.zeros(60, 1, 3, 3)})
