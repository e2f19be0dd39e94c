import logging
import re
from argparse import Namespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmkerv.engine import apply_patches
from mmkerv.engine.checkpoint.pretrained import missing_files
from mmkerv.engine.config.prepare import prepare
from mmkerv.errors import CheckpointMismatchError, ConfigError, UnsafeCheckpointError
from mmkerv.ops import CKConv, CoCConv, KervConv, LowRankConv
from tests.engine.tiny_runner import TinyModel, tiny_runner


class Net(BaseModule):
    """Stem and two stages of convolutions with norms, optionally with a classifier and attention blocks."""

    def __init__(self, depth: int = 3, width: int = 4, conv=nn.Conv2d, init_cfg=None, fc=0, attention=False, **options):
        super().__init__(init_cfg)
        torch.manual_seed(0)

        def layer(channels: int) -> nn.Module:
            modules = {'conv': conv(channels, width, 3, padding=1, **options), 'norm': nn.BatchNorm2d(width)}
            if attention:
                modules['attention'] = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))
            return nn.ModuleDict(modules)

        self.conv1 = conv(3, width, 3, **options)
        self.layer1 = nn.Sequential(*(layer(width) for _ in range(depth)))
        self.layer2 = nn.Sequential(*(layer(width) for _ in range(depth)))
        if fc:
            self.fc = nn.Linear(width, fc)


@pytest.fixture(autouse=True)
def installed():
    apply_patches()


@pytest.fixture
def lines(caplog):
    """Function that returns the levels and texts of mmkerv's log lines."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield lambda: [(r.levelno, r.getMessage()) for r in caplog.records if r.getMessage().startswith('mmkerv: ')]
    logger.removeHandler(caplog.handler)


def random_state(source: nn.Module, prefix: str = '') -> dict:
    """Return a state dict of random values above 1, which no initialisation gives."""
    return {f'{prefix}{k}': torch.rand(v.shape) + 1 if v.dim() else v for k, v in source.state_dict().items()}


def started(tmp_path, state, make=Net, prefix=None, **options) -> nn.Module:
    """Return a network initialised from a checkpoint with the given state."""
    torch.save({'state_dict': state}, tmp_path / 'a.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), **({'prefix': prefix} if prefix else {}))
    net = make(init_cfg=init, **options)
    net.init_weights()
    return net


SUPER = 'conv1.super_layers.0.weight, layer1.0.conv.super_layers.0.weight, layer1.1.conv.super_layers.0.weight, ...'
ATTENTION = 'layer1.0.attention.0.weight, layer1.0.attention.0.bias, layer1.0.attention.1.weight, ...'
# Options of the checkpoint's network and of the network, prefix, and the log line. The network has 7 convolutions of 2
# tensors and 6 norms of 5.
ACCEPTED = {
    'its own': ({}, {}, '', '44 parameters loaded, 0 missing, 0 unexpected'),
    'its own, of a whole network': ({}, {}, 'backbone.', '44 parameters loaded, 0 missing, 0 unexpected'),
    'operators': (dict(conv=CoCConv), dict(conv=CoCConv), 'backbone.', '51 parameters loaded, 0 missing, 0 unexpected'),
    'a classifier': (dict(fc=5), {}, '', '44 parameters loaded, 0 missing, 2 unexpected (fc.weight, fc.bias)'),
    'plain, for operators': (
        {},
        dict(conv=CoCConv),
        'backbone.',
        f'44 parameters loaded, 0 missing, 0 unexpected; 7 operator parameters at their initial values ({SUPER})',
    ),
    'plain, for kervolution': (
        {},
        dict(conv=KervConv, learnable=True),
        '',
        '44 parameters loaded, 0 missing, 0 unexpected; 7 operator parameters at their initial values (conv1.balance, '
        'layer1.0.conv.balance, layer1.1.conv.balance, ...)',
    ),
    'plain, for operators without a basic kernel': (
        dict(fc=5),
        dict(conv=CKConv, layers=2),
        '',
        '37 parameters loaded, 0 missing, 2 unexpected (fc.weight, fc.bias); 28 parameters of operators without '
        'a basic kernel at their initial values (conv1.kernel_net.layers.0.weight, conv1.kernel_net.layers.0.bias, '
        '...); 7 plain weights that those operators cannot use (conv1.weight, ...)',
    ),
    'a layer less': (
        dict(depth=4),
        dict(depth=5),
        '',
        '58 parameters loaded, 12 missing (layer1.4.conv.weight, layer1.4.conv.bias, layer1.4.norm.weight, ...), '
        '0 unexpected',
    ),
    'attention blocks added': (
        {},
        dict(attention=True),
        '',
        f'44 parameters loaded, 24 missing ({ATTENTION}), 0 unexpected',
    ),
    'attention blocks left out': (
        dict(attention=True),
        {},
        '',
        f'44 parameters loaded, 0 missing, 24 unexpected ({ATTENTION})',
    ),
}


@pytest.mark.parametrize('name', ACCEPTED)
def test_one_line_reports_what_was_loaded(tmp_path, lines, name):
    theirs, ours, prefix, message = ACCEPTED[name]
    state = {**random_state(Net(**theirs), prefix), **({'head.weight': torch.ones(2)} if prefix else {})}
    net = started(tmp_path, state, prefix=prefix, **ours)
    ((level, line),) = lines()
    place = 'Net (prefix backbone.)' if prefix else 'Net'
    assert (level, line) == (logging.INFO, f'mmkerv: {tmp_path}/a.pth -> {place}: {message}')
    own = net.state_dict()
    for key, value in state.items():
        key = key.removeprefix(prefix)
        assert key not in own or torch.equal(own[key], value), key


def test_operators_keep_their_initial_values(tmp_path):
    state = random_state(Net())
    net = started(tmp_path, state, conv=CoCConv)
    torch.testing.assert_close(net.layer1[0]['conv'].kernel(), state['layer1.0.conv.weight'], rtol=0, atol=0)


def test_operators_that_change_plain_kernels_are_warned_of(tmp_path, lines):
    started(tmp_path, random_state(Net()), conv=CoCConv, super_init='kaiming')
    (_, _), (level, line) = lines()
    assert level == logging.WARNING
    assert '7 operators of Net such as conv1 do not start as the identity' in line and "super_init='identity'" in line


class Detector(BaseModule):
    """Backbone and a head of two convolutions, the last for classes."""

    def __init__(self, classes: int = 80, width: int = 4, init_cfg=None):
        super().__init__(init_cfg)
        self.backbone = Net()
        convs = {'shared': nn.Conv2d(4, width, 1), 'cls': nn.Conv2d(width, classes, 1)}
        self.roi_head = nn.ModuleDict({'bbox_head': nn.ModuleDict(convs)})


def test_layers_of_a_head_for_other_classes_are_left_out_and_named(tmp_path, lines):
    """Upstream's trackers start from a detector of COCO so."""
    state = random_state(Detector())
    net = started(tmp_path, state, Detector, classes=1)
    ((level, line),) = lines()
    assert level == logging.INFO and line.endswith(
        'Detector: 46 parameters loaded, 0 missing, 0 unexpected; 2 of another shape (roi_head.bbox_head.cls.weight, '
        'roi_head.bbox_head.cls.bias)'
    )
    assert torch.equal(net.roi_head['bbox_head']['shared'].weight, state['roi_head.bbox_head.shared.weight'])


def test_a_head_of_another_width_is_refused(tmp_path):
    width = r': roi_head\.bbox_head\.cls\.weight is \(80, 6, 1, 1\) in the checkpoint and \(80, 4, 1, 1\) in'
    with pytest.raises(CheckpointMismatchError, match=width):
        started(tmp_path, random_state(Detector(width=6)), Detector)


def test_class_layers_alone_are_nothing_to_start_from(tmp_path):
    state = {key: value for key, value in random_state(Detector()).items() if '.cls.' in key}
    with pytest.raises(CheckpointMismatchError, match='nothing of it fits'):
        started(tmp_path, state, Detector, classes=1)


REFUSED = {
    'wider': (
        dict(width=6),
        {},
        {},
        r'conv1\.weight is \(6, 3, 3, 3\) in the checkpoint and \(4, 3, 3, 3\) in',
    ),
    'wider, for layers that decompose': (
        dict(width=6),
        dict(conv=LowRankConv, rank=2),
        {},
        r'0 missing.*conv1\.weight is \(6, 3, 3, 3\) in the checkpoint and the network decomposes \(4, 3, 3, 3\)',
    ),
    'deeper': (dict(depth=4), dict(depth=3), {}, r'14 of 58 of the checkpoint.*another number of layers'),
    'less deep': (dict(depth=3), dict(depth=4), {}, r'12 of 58 of the network.*another number of layers'),
    'operators, for a plain network': (dict(conv=CoCConv), {}, {}, r'no conv1\.super_layers\.0\.weight.*the conv_cfg'),
    'operators with another option': (
        dict(conv=CoCConv, super_bias=True),
        dict(conv=CoCConv),
        {},
        r'conv1\.super_layers\.0\.bias is in the checkpoint, .* without super_bias=True; add that',
    ),
    'operators with more layers': (
        dict(conv=CoCConv, num_layers=2),
        dict(conv=CoCConv),
        {},
        r'7 unexpected \(conv1\.super_layers\.1\.weight.*the conv_cfg',
    ),
    'continuous kernels, for a plain network': (dict(conv=CKConv), {}, {}, r'no conv1\.kernel_net.*the conv_cfg'),
    'operators, for continuous kernels': (dict(conv=CoCConv), dict(conv=CKConv), {}, r'no conv1\.super_layers'),
    'whole network without prefix': (
        {},
        {},
        dict(save='backbone.'),
        r"add prefix='backbone\.' to init_cfg",
    ),
    'of another prefix': (
        {},
        {},
        dict(load='neck.'),
        r"no key that begins with 'neck\.': its parts are conv1, layer1",
    ),
    'of another name': ({}, {}, dict(save='x.y.'), r'44 unexpected \(x\.y\.conv1\.weight, .*nothing of it fits'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_checkpoint_of_another_network_is_refused(tmp_path, name):
    theirs, ours, prefix, message = REFUSED[name]
    state = random_state(Net(**theirs), prefix.get('save', ''))
    with pytest.raises(CheckpointMismatchError, match=rf"(?s)'{tmp_path}/a\.pth' (is not of Net|has).*{message}"):
        started(tmp_path, state, prefix=prefix.get('load'), **ours)


@pytest.mark.parametrize('content', [[1, 2], torch.ones(2), {'state_dict': [1]}], ids=['list', 'tensor', 'odd'])
@pytest.mark.parametrize('prefix', [{}, {'prefix': 'backbone.'}], ids=['whole', 'prefix'])
def test_checkpoint_without_weights_is_refused(tmp_path, content, prefix):
    torch.save(content, tmp_path / 'a.pth')
    net = Net(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), **prefix))
    with pytest.raises(CheckpointMismatchError, match=r'a\.pth.* holds a (list|Tensor), not parameters by name'):
        net.init_weights()


@pytest.mark.usefixtures('safe')
def test_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / 'a.pth').write_text('no checkpoint')
    net = Net(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth')))
    with pytest.raises(UnsafeCheckpointError, match=r'a\.pth.*was not read'):
        net.init_weights()


@pytest.fixture
def safe():
    apply_patches()


def test_keys_that_the_network_renames_are_loaded(tmp_path, lines):
    """mmpretrain's transformers resize position tables, and mmcv's deformable convolution renames offsets."""

    class Renaming(Net):
        def __init__(self, **options):
            super().__init__(**options)
            self.layer2._register_load_state_dict_pre_hook(self.rename)

        @staticmethod
        def rename(state_dict, prefix, *_):
            for key in [key for key in state_dict if 'bn' in key]:
                state_dict[key.replace('bn', 'norm')] = state_dict.pop(key)
            state_dict[f'{prefix}0.conv.weight'] = state_dict[f'{prefix}0.conv.weight'][:, :, :3, :3]

    state = {k.replace('norm', 'bn') if 'layer2' in k else k: v for k, v in random_state(Net()).items()}
    state['layer2.0.conv.weight'] = torch.ones(4, 4, 5, 5)
    started(tmp_path, state, Renaming)
    assert lines()[0][1].endswith('Renaming: 44 parameters loaded, 0 missing, 0 unexpected')


def test_applied_twice_it_reports_once_and_removes_its_hooks(tmp_path, lines):
    apply_patches()
    net = started(tmp_path, random_state(Net()))
    assert len(lines()) == 1
    for module in net.modules():
        assert not module._load_state_dict_pre_hooks and not module._load_state_dict_post_hooks


def upstream_network(scope: str, **config) -> nn.Module:
    pytest.importorskip(scope)
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build({**dict(type='ResNet', base_channels=8), **config})


@pytest.mark.parametrize('theirs, ours', [(50, 101), (101, 50), (34, 18), (18, 34), (18, 50)])
def test_another_depth_is_refused(tmp_path, theirs, ours):
    state = upstream_network('mmdet', depth=theirs).state_dict()
    with pytest.raises(CheckpointMismatchError, match=r'init_cfg\.checkpoint'):
        started(tmp_path, state, upstream_network, scope='mmdet', depth=ours)


COC = dict(type='CoCConv')
OFFSETS = dict(dcn=dict(type='DCNv2', deform_groups=1), stage_with_dcn=(False, True, True, True))
ADDED = {
    'operators': (
        50,
        dict(conv_cfg=COC),
        r'318 parameters loaded, 0 missing, 2 unexpected \(fc.*; 17 operator param',
    ),
    'offsets': (50, OFFSETS, r'318 parameters loaded, 26 missing \(layer2\.0\.conv2\.conv_offset'),
    'no last stage': (
        18,
        dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,)),
        r'90 parameters loaded, 0 missing, 32 unexpected \(layer4',
    ),
}


@pytest.mark.parametrize('name', ADDED)
def test_detector_is_initialised_from_a_classifier(tmp_path, lines, name):
    """The keys of torchvision's ResNet."""
    depth, config, message = ADDED[name]
    state = upstream_network('mmdet', depth=depth).state_dict()
    state |= {'fc.weight': torch.ones(5, 8), 'fc.bias': torch.ones(5)}
    started(tmp_path, state, upstream_network, scope='mmdet', depth=depth, **config)
    ((_, line),) = lines()
    assert re.search(message, line), line


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
@pytest.mark.parametrize('kind', ['ResNet', 'mmkerv.ResNet'])
def test_classifier_with_operators_initialises_every_library(tmp_path, lines, scope, kind):
    config = dict(type=kind, depth=18, stem_channels=8, conv_cfg=COC)
    state = random_state(upstream_network('mmpretrain', **config), 'backbone.')
    net = started(tmp_path, state, upstream_network, 'backbone.', scope=scope, **config)
    assert lines()[-1][1].endswith('ResNet (prefix backbone.): 137 parameters loaded, 0 missing, 0 unexpected')
    for key, value in net.state_dict().items():
        assert torch.equal(value, state[f'backbone.{key}']), key


@pytest.mark.parametrize('scope, kind', [('mmseg', 'EncoderDecoder'), ('mmpretrain', 'ImageClassifier')])
def test_pretrained_argument_of_a_model_is_reported(tmp_path, lines, scope, kind):
    pytest.importorskip(scope)
    backbone = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8, conv_cfg=COC)
    head = dict(type='FCNHead', in_channels=64, in_index=3, channels=8, num_classes=2)
    classes = dict(type='LinearClsHead', in_channels=64, num_classes=2)
    parts = {'mmseg': dict(decode_head=head), 'mmpretrain': dict(neck=dict(type='GlobalAveragePooling'), head=classes)}
    file = str(tmp_path / 'a.pth')
    with DefaultScope.overwrite_default_scope(scope):
        whole = MODELS.build(dict(type=kind, backbone=backbone, **parts[scope]))
        torch.save(random_state(whole.backbone if scope == 'mmseg' else whole), file)
        model = MODELS.build(Config(dict(type=kind, backbone=backbone, pretrained=file, **parts[scope]))._cfg_dict)
        model.init_weights()
    place = 'ResNet' if scope == 'mmseg' else 'ImageClassifier'
    assert [line.split(' ->')[1].split(' param')[0] for _, line in lines()] == [
        f' {place}: {137 if scope == "mmseg" else 139}'
    ]


PRETRAINED = dict(type='Pretrained', checkpoint='absent.pth', prefix='backbone.')


@pytest.mark.parametrize(
    'model, place',
    [
        (
            dict(backbone=dict(init_cfg=PRETRAINED)),
            'model.backbone.init_cfg.checkpoint=FILE, or None for',
        ),
        (dict(backbone=dict(init_cfg=[PRETRAINED])), 'model.backbone.init_cfg.0.checkpoint=FILE'),
        (dict(pretrained='absent.pth'), 'model.pretrained=FILE, or None for model.pretrained to start without one'),
    ],
)
def test_missing_file_names_the_key(tmp_path, model, place):
    (fault,) = missing_files(model, 'model')
    assert fault.startswith("checkpoint 'absent.pth' does not exist")
    assert f'--cfg-options {place}' in fault and '\n' not in fault


@pytest.mark.parametrize('checkpoint', ['torchvision://resnet18', 'https://example.org/a.pth', None, __file__])
def test_remote_or_existing_file_is_accepted(checkpoint):
    assert not missing_files(dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint), pretrained=True), 'model')


def arguments(tmp_path) -> Namespace:
    return Namespace(config='net.py', work_dir=str(tmp_path), launcher='none', trust_checkpoint=False)


def test_only_training_needs_the_pretrained_file(tmp_path):
    cfg = Config(dict(model=dict(init_cfg=PRETRAINED)))
    prepare(cfg, arguments(tmp_path), ('test',))
    with pytest.raises(ConfigError, match=r'model\.init_cfg\.checkpoint=FILE'):
        prepare(cfg, arguments(tmp_path), ('train',))
    prepare(Config(dict(model=dict(init_cfg=None))), arguments(tmp_path), ('train',))


@pytest.mark.parametrize('fits', [True, False])
def test_runner_stops_before_the_first_iteration(tmp_path, fits):
    state = random_state(TinyModel(CoCConv if fits else nn.Conv2d), 'model.')
    if not fits:
        state['model.conv.weight'] = torch.ones(8, 3, 5, 5)
    torch.save(state, tmp_path / 'a.pth')
    model = TinyModel()
    model.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), prefix='model.')
    runner = tiny_runner(tmp_path / 'run', model)
    if fits:
        runner.train()
        log = next(tmp_path.glob('run/*/*.log')).read_text()
        assert log.count('TinyModel (prefix model.): 8 parameters loaded, 0 missing, 0 unexpected') == 1
        return
    with pytest.raises(CheckpointMismatchError, match=r'conv\.weight is \(8, 3, 5, 5\)'):
        runner.train()
    assert runner.iter == 0
