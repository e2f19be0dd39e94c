"""Networks with operators start with the weights of the plain network of the same seed, whatever initialises them.

Nothing is patched here: upstream's own tools initialise in the same way.
"""

import copy
import inspect
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')

from mmengine.config import Config
from mmengine.model import BaseModule, initialize
from mmengine.registry import MODELS, init_default_scope

import mmkerv
from mmkerv.engine import patched
from mmkerv.ops import CondConv2d, DCLSConv2d
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.initialisation import plain_convolutions
from tests.ops import catalogue

COC, LINEAR = dict(type='CoCConv'), dict(type='KervConv', kernel='linear')


class Root(BaseModule):
    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part


def initialised(
    part: dict, conv_cfg: dict | None = None, convert: dict | None = None, seed_again: bool = True
) -> nn.Module:
    """Build a part of a network with ``conv_cfg``, or convert it, and initialise it as mmengine's runner does."""
    part = copy.deepcopy(part)
    if '.' in part['type']:
        init_default_scope(part['type'].partition('.')[0])
    if conv_cfg:
        part['conv_cfg'] = conv_cfg
    torch.manual_seed(0)
    net = Root(MODELS.build(part))
    if convert:
        mmkerv.convert(net, convert, where=dict(kernel_sizes=(3, 5, 7)))
    if seed_again:
        torch.manual_seed(1)
    net.init_weights()
    return net


def differing(plain: nn.Module, net: nn.Module) -> list[str]:
    """Return the names of the plain network's parameters that have another value in the other network."""
    own = net.state_dict()
    assert set(plain.state_dict()) <= set(own)
    return [name for name, p in plain.named_parameters() if not torch.equal(p, own[name])]


def own_starts(net: nn.Module) -> bool:
    """Whether each identity operator still equals the plain convolution with its weight."""
    return all(
        torch.equal(op.kernel(), op.weight) for op in net.modules() if isinstance(op, ConvNd) and op.starts_as_identity
    )


ANCHORS = dict(type='mmdet.AnchorGenerator', ratios=[1.0], scales=[8], strides=[8, 16])
POINTS = dict(type='mmdet.MlvlPointGenerator', offset=0, strides=[8, 16])
DIST = dict(type='mmdet.DistancePointBBoxCoder')
# By what the initialiser does: isinstance(m, nn.Conv2d), all parameters of more than one axis, a rule by name.
PARTS = {
    'RTMDetHead': dict(
        type='mmdet.RTMDetHead', num_classes=3, in_channels=8, feat_channels=32, stacked_convs=2,
        anchor_generator=POINTS, bbox_coder=DIST,
    ),
    'DilatedEncoder': dict(
        type='mmdet.DilatedEncoder', in_channels=8, out_channels=8, block_mid_channels=4, num_residual_blocks=1,
        block_dilations=[2],
    ),
    'FCOSHead': dict(type='mmdet.FCOSHead', num_classes=3, in_channels=8, feat_channels=32, stacked_convs=1),
    'DynamicMaskHead': dict(type='mmdet.DynamicMaskHead', num_convs=2, in_channels=8, conv_out_channels=8,
                            dynamic_conv_cfg=dict(type='mmdet.DynamicConv', in_channels=8, feat_channels=4,
                                                  out_channels=8, input_feat_shape=14, with_proj=False)),
    'MultiLevelNeck': dict(type='mmseg.MultiLevelNeck', in_channels=[8, 8], out_channels=8, scales=[1, 2]),
    'ShuffleNetV2': dict(type='mmpretrain.ShuffleNetV2', widen_factor=0.5),
}  # fmt: skip


@pytest.mark.parametrize('convert', [COC, LINEAR], ids=['CoC', 'linear'])
@pytest.mark.parametrize('name', PARTS)
def test_converted_networks_start_with_the_plain_weights(name, convert):
    pytest.importorskip(PARTS[name]['type'].partition('.')[0])
    plain, net = initialised(PARTS[name]), initialised(PARTS[name], convert=convert)
    assert any(isinstance(m, ConvNd) for m in net.modules())
    assert not differing(plain, net) and own_starts(net)
    assert all(type(m).__name__ in ('CoCConv2d', 'KervConv2d') for m in net.modules() if isinstance(m, ConvNd))


@pytest.mark.parametrize('conv_cfg', [COC, LINEAR], ids=['CoC', 'linear'])
@pytest.mark.parametrize('name', ['RTMDetHead', 'FCOSHead', 'DynamicMaskHead'])
def test_networks_with_conv_cfg_start_with_the_plain_weights(name, conv_cfg):
    pytest.importorskip(PARTS[name]['type'].partition('.')[0])
    net = initialised(PARTS[name], conv_cfg)
    assert not differing(initialised(PARTS[name]), net) and own_starts(net)


RANDOM = {
    'CoC': dict(type='CoCConv', super_init='kaiming'),
    'Reparam': dict(type='ReparamConv'),
    'CondConv': dict(type='CondConv'),
    'FDConv': dict(type='FDConv'),
    'SMP': dict(type='SMPConv', branch_norm=None),
}


@pytest.mark.parametrize('road', ['conv_cfg', 'Converted'])
@pytest.mark.parametrize('name', RANDOM)
def test_operators_that_start_at_random_change_no_other_weights(name, road):
    pytest.importorskip('mmpretrain')
    part = dict(type='mmpretrain.ResNet', depth=18, stem_channels=16, base_channels=16)
    plain = initialised(part, seed_again=False)
    if road == 'conv_cfg':
        net = initialised(part, RANDOM[name], seed_again=False)
    else:
        net = initialised(dict(type='mmkerv.Converted', model=part, conv_cfg=RANDOM[name]), seed_again=False)
    ops = [m for m in net.modules() if isinstance(m, ConvNd)]
    assert len(ops) > 10 and not differing(plain, net)
    own = [p for op in ops for p in op.own_parameters().values() if p.numel() > 8 and p.std() > 0]
    assert own and not any(torch.equal(p, q) for i, p in enumerate(own) for q in own[:i])


def test_towers_of_rtmdet_start_small():
    pytest.importorskip('mmdet')
    net = initialised(PARTS['RTMDetHead'], COC)
    towers = [m.weight for m in net.modules() if isinstance(m, ConvNd)]
    assert len(towers) == 4 and all(0.008 < float(w.std()) < 0.012 for w in towers)


class Every(BaseModule):
    """Initialises by all roads: class, axes, name, and a function of its own."""

    def __init__(self, *layers: nn.Module):
        super().__init__(dict(type='Normal', layer='Conv2d', std=0.5, override=dict(type='Normal', name='last', std=2)))
        self.first, self.last = layers

    def init_weights(self):
        super().init_weights()
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.uniform_(m.weight)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)
        self.apply(self.count)

    def count(self, m: nn.Module):
        self.convolutions = getattr(self, 'convolutions', 0) + isinstance(m, nn.Conv2d)


@pytest.mark.parametrize('label', [label for label, (kind, _) in catalogue.VARIANTS.items() if kind.dims == 2])
def test_every_operator_keeps_its_own_parameters_and_its_class(label):
    ops = [catalogue.layer(label), catalogue.layer(label)]
    for op in ops:
        op.reset_parameters()
    own = [{name: p.clone() for name, p in op.own_parameters().items()} for op in ops]
    net = Root(Every(*ops))
    net.init_weights()
    for op, before in zip(ops, own):
        assert type(op) is catalogue.VARIANTS[label][0] and not isinstance(op, nn.Conv2d)
        assert all(torch.equal(op.own_parameters()[name], p) for name, p in before.items())
        assert all('_params_init_info' not in m.__dict__ for m in op.modules())
        assert not hasattr(op, '_params_init_info')
    assert net.part.convolutions == (2 if ops[0].weight is not None else 0)


def test_a_checkpoint_sets_the_own_parameters_of_operators(tmp_path):
    def network() -> nn.Module:
        return Every(CondConv2d(4, 4, 3, experts=2), DCLSConv2d(4, 4, 3, kernel_extent=5))

    trained = {name: torch.rand_like(value) for name, value in network().state_dict().items()}
    torch.save(trained, tmp_path / 'a.pth')
    net = network()
    net.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    BaseModule.init_weights(net)
    assert all(torch.equal(value, trained[name]) for name, value in net.state_dict().items())
    with plain_convolutions(net):
        assert len(list(net.parameters())) == 4 and len(net.state_dict()) == len(trained)
        net.double()
        net.first.weight = nn.Parameter(torch.ones(4, 4, 3, 3))
    assert net.first.experts.dtype == torch.float64 and net.first.weight.sum() == 144
    assert sum(1 for _ in net.parameters()) == len(trained)


def test_initialiser_of_one_layer_leaves_super_layers_alone():
    net = nn.Sequential()
    net.last = op = catalogue.layer('CoC at its start')
    override = dict(type='Constant', name='last', val=3.0, bias=1.0)
    initialize(net, dict(type='Constant', layer='Linear', val=1.0, override=override))
    assert torch.equal(op.weight, torch.full_like(op.weight, 3.0))
    assert float(op.super_layers[0].weight.abs().sum()) == 0 and float(op.bias.sum()) == 8.0


def test_runner_initialises_networks_that_do_not_use_mmengines_road():
    from mmengine.runner import Runner

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = catalogue.layer('CoC at its start')

        def init_weights(self):
            for m in self.modules():
                if isinstance(m, nn.Conv2d):
                    nn.init.ones_(m.weight)

    runner = object.__new__(Runner)
    runner.model = Own()
    with patched():
        runner._init_model_weights()
    assert float(runner.model.conv.weight.min()) == 1.0 and not isinstance(runner.model.conv, nn.Conv2d)


def parts_of(library: str) -> dict[str, dict]:
    """Return one config for each backbone, neck and head in the library's configs, without checkpoints."""

    def walk(node):
        if isinstance(node, dict):
            for key, value in node.items():
                if key == 'backbone' or key.endswith(('neck', 'head')):
                    for part in value if isinstance(value, (list, tuple)) else [value]:
                        if isinstance(part, dict) and isinstance(part.get('type'), str):
                            yield part
                yield from walk(value)
        elif isinstance(node, (list, tuple)):
            for item in node:
                yield from walk(item)

    def plain(node):
        if isinstance(node, dict):
            drop = isinstance(node.get('init_cfg'), dict) and 'checkpoint' in node['init_cfg']
            changes = {'init_cfg': None} if drop else {}
            changes |= {'pretrained': None} if 'pretrained' in node else {}
            return {key: plain(value) for key, value in node.items()} | changes
        return [plain(item) for item in node] if isinstance(node, (list, tuple)) else node

    found: dict[str, dict] = {}
    for file in sorted((Path(find_spec(library).origin).parent / '.mim' / 'configs').rglob('*.py')):
        if '_base_' in file.parts:
            continue
        try:
            model = Config.fromfile(file).get('model') or {}
        except (OSError, ImportError, AttributeError, ValueError, KeyError, TypeError, RuntimeError):
            # Configs of optional packages.
            continue
        for part in walk(model.to_dict() if hasattr(model, 'to_dict') else model):
            found.setdefault(part['type'], plain(part))
    return found


# What upstream builds with another convolution by default, so that conv_cfg changes more than the operator, or leaves
# uninitialised.
NOT_COMPARABLE = {
    'DetectoRS_ResNet': 'ConvAWS2d',
    'NASFCOS_FPN': 'deformable convolutions',
    'MaskPointHead': '1-D convolutions',
    'PointHead': '1-D convolutions',
    'TridentResNet': 'trident convolutions have no start of their own',
}
LARGEST = 1e8


@pytest.mark.long
@pytest.mark.parametrize('library, least', [('mmdet', 60), ('mmseg', 45), ('mmpretrain', 40)])
def test_parts_of_all_upstream_networks_start_with_the_plain_weights(library, least):
    pytest.importorskip(f'{library}.models')
    init_default_scope(library)
    compared, wrong = 0, {}
    for kind, part in parts_of(library).items():
        if kind in NOT_COMPARABLE:
            continue
        # Some networks change the scope while they are built.
        init_default_scope(library)
        try:
            plain = initialised(part)
        except Exception:  # Parts that need their surroundings, or packages that are not installed.
            continue
        if sum(p.numel() for p in plain.parameters()) > LARGEST:
            continue
        roads = [{'convert': COC}]
        constructors = [base.__init__ for base in type(plain.part).__mro__]
        if any('conv_cfg' in inspect.signature(init).parameters for init in constructors):
            roads += [{'conv_cfg': COC}, {'conv_cfg': LINEAR}]
        for road in roads:
            try:
                net = initialised(part, **road)
            except (mmkerv.errors.ArgumentError, TypeError):
                # Nothing to replace, even kernels, or no such argument.
                continue
            compared += any(isinstance(m, ConvNd) for m in net.modules())
            if names := differing(plain, net):
                wrong[f'{kind} {json.dumps(road)}'] = names[:3]
    assert not wrong and compared >= least, compared
