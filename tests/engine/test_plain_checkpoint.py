"""Plain checkpoints of torchvision and OpenMMLab into operator networks: places, starts, outputs, refusals."""

import copy
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')
pytest.importorskip('mmpretrain')

from bombs import execute, hidden, write
from engine.small_networks import classifier, neck, operators, retinanet, segmentor
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from tool_process import run_tool

from mmkerv.engine import CheckpointMismatchError, UnsafeCheckpointError
from mmkerv.engine.configuration import ConfigError
from mmkerv.engine.plain_checkpoint import convert_checkpoint, infer_config, summary
from mmkerv.ops.base import ConvNd

ROOT = Path(__file__).resolve().parents[2]
COC = dict(type='CoCConv')


@torch.no_grad()
def shaken(model: nn.Module) -> nn.Module:
    """With the statistics of a trained network: at their start, norms hide that one stands in another's place."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            for tensor in (module.weight, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias, module.running_mean):
                tensor.normal_(std=0.1, generator=generator)
    return model.eval()


def plain(cfg: Config) -> nn.Module:
    """The network of a config without its operators."""
    cfg = copy.deepcopy(cfg)

    def strip(node):
        if isinstance(node, dict):
            for key in ('conv_cfg', 'where'):
                node.pop(key, None)
            for value in node.values():
                strip(value)
        elif isinstance(node, list):
            for value in node:
                strip(value)

    strip(cfg.model)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(2)
    model = shaken(revert_sync_batchnorm(MODELS.build(cfg.model)))
    assert not any(isinstance(module, ConvNd) for module in model.modules())
    return model


def converted(tmp_path, weights, cfg=None):
    """What was matched, and the network that ``DST`` loads into strictly."""
    src, dst = tmp_path / 'src.pth', tmp_path / 'out' / 'dst.pth'
    torch.save(weights, src)
    match = convert_checkpoint(src, dst, copy.deepcopy(cfg))
    written = torch.load(dst, weights_only=True)
    assert list(written) == ['meta', 'state_dict'] and [p.name for p in dst.parent.iterdir()] == ['dst.pth']
    cfg = cfg or infer_config(weights.get('state_dict', weights), 'src.pth')
    init_default_scope(cfg.default_scope)
    network = revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))
    network.load_state_dict(written['state_dict'], strict=True)
    assert set(network.state_dict()) == set(written['state_dict']), 'whole, with the parameters of the operators'
    network.eval()
    return match, network


def refuse(tmp_path, weights, cfg, error, says):
    src, dst = tmp_path / 'src.pth', tmp_path / 'out' / 'dst.pth'
    torch.save(weights, src)
    with pytest.raises(error, match=says):
        convert_checkpoint(src, dst, cfg)
    assert not dst.parent.exists(), 'nothing was written'


@torch.no_grad()
def assert_same(ours, theirs, size=64):
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    actual, expected = ours(x), theirs(x)
    assert expected.std() > 1e-4
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def logits(network):
    return lambda x: network.head(network.extract_feat(x))


def small(classes=4, **changes) -> Config:
    cfg = classifier(stem_channels=8)
    # ConfigDict.update would merge the two operators' arguments.
    for name, value in {'conv_cfg': COC, 'where': dict(stages=(1, 2), stem=False), **changes}.items():
        cfg.model.backbone[name] = value
    cfg.model.head.num_classes = classes
    return cfg


FORMS = {
    'bare': dict,
    'of a runner': lambda state: {'meta': {'epoch': 1}, 'state_dict': state},
    'of a wrapper': lambda state: {f'module.{name}': value for name, value in state.items()},
    'before torch 1.0': lambda state: {k: v for k, v in state.items() if not k.endswith('num_batches_tracked')},
    'half': lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
    "by torchvision's names": lambda state: {
        k.removeprefix('backbone.').removeprefix('head.'): value for k, value in state.items()
    },
}


@pytest.mark.parametrize('form', FORMS)
def test_forms_of_a_checkpoint(tmp_path, form):
    theirs = plain(small())
    if form == 'half':
        theirs.half().float()
    weights = FORMS[form](theirs.state_dict())
    match, network = converted(tmp_path, weights, small())
    assert len(match.loaded) == (102 if form == 'before torch 1.0' else 122)
    assert not match.missing and not match.unexpected and len(match.operator_only) == 16
    assert network.backbone.conv1.weight.dtype == torch.float32
    assert_same(logits(network), logits(theirs))


def test_resnet_is_told_from_its_names(tmp_path):
    theirs = shaken(torchvision.models.resnet18(num_classes=7))
    match, network = converted(tmp_path, theirs.state_dict())
    assert summary(match) == '122 parameters loaded, 0 missing, 0 unexpected; 34 parameters of operators at their start'
    assert len(operators(network)) == 17
    assert_same(logits(network), theirs)


def test_bottlenecks_too(tmp_path):
    theirs = shaken(torchvision.models.resnet50(num_classes=5))
    match, network = converted(tmp_path, theirs.state_dict())
    assert summary(match) == '320 parameters loaded, 0 missing, 0 unexpected; 34 parameters of operators at their start'
    assert network.head.fc.out_features == 5
    assert_same(logits(network), theirs)


@pytest.mark.parametrize('depth', [18, 34, 50, 101, 152])
@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_depth_is_told_from_the_blocks(depth, prefix):
    with torch.device('meta'):
        weights = getattr(torchvision.models, f'resnet{depth}')().state_dict()
    weights = {prefix + name: value for name, value in weights.items() if not name.startswith('fc.')}
    model = infer_config(weights, 'a.pth').model
    assert model.backbone.depth == depth and model.head is None


@pytest.mark.parametrize(
    'names',
    [['layer1.0.conv1.weight'], ['stem.0.weight'], ['features.0.weight'], []],
    ids=['a block', 'a stem', 'VGG', 'nothing'],
)
def test_another_network_needs_a_config(tmp_path, names):
    refuse(tmp_path, dict.fromkeys(names, torch.ones(2)), None, ConfigError, r"src\.pth' cannot be told.*--config")


def test_keys_that_are_no_names_are_refused(tmp_path):
    says = r"src\.pth' holds a int, not parameters by name"
    refuse(tmp_path, {0: torch.ones(2)}, None, CheckpointMismatchError, says)


def of_mmpretrain(backbone, channels, hidden=None):
    head = dict(type='LinearClsHead', num_classes=6, in_channels=channels)
    if hidden:
        head |= dict(type='StackedLinearClsHead', mid_channels=[hidden], act_cfg=dict(type='HSwish'))
    backbone = dict(conv_cfg=COC, **backbone)
    model = dict(type='ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=head)
    return Config(dict(default_scope='mmpretrain', model=model))


FAMILIES = {
    'mobilenet_v2': lambda: of_mmpretrain(dict(type='mmkerv.MobileNetV2'), 1280),
    'mobilenet_v3_small': lambda: of_mmpretrain(dict(type='mmkerv.MobileNetV3', arch='small'), 576, 1024),
    'mobilenet_v3_large': lambda: of_mmpretrain(dict(type='mmkerv.MobileNetV3', arch='large'), 960, 1280),
    'shufflenet_v2_x0_5': lambda: of_mmpretrain(dict(type='mmkerv.ShuffleNetV2', widen_factor=0.5), 1024),
}


@pytest.mark.parametrize('name', FAMILIES)
def test_families_with_other_names(tmp_path, name):
    theirs = shaken(getattr(torchvision.models, name)(num_classes=6))
    match, network = converted(tmp_path, theirs.state_dict(), FAMILIES[name]())
    assert len(match.loaded) == len(theirs.state_dict()) and not match.missing and not match.unexpected
    assert len(match.operator_only) == 2 * len(operators(network)) > 0
    assert_same(logits(network), theirs, 96)


def test_families_must_agree_layer_by_layer(tmp_path):
    theirs = torchvision.models.shufflenet_v2_x0_5(num_classes=6).state_dict()
    says = (
        r"torchvision's ShuffleNetV2 \(280 tensors\) and the backbone \(280 tensors\) do not agree layer by layer: "
        r'backbone\.stage2\.0\.branch1\.2\.weight \(24, 24, 1, 1\) stands where '
        r'backbone\.layers\.0\.0\.branch1\.1\.conv\.weight \(58, 24, 1, 1\) should'
    )
    refuse(tmp_path, theirs, of_mmpretrain(dict(type='mmkerv.ShuffleNetV2'), 1024), CheckpointMismatchError, says)


def test_mmpretrain_into_a_detector(tmp_path):
    pytest.importorskip('mmdet')
    pretrained = plain(small())
    cfg = retinanet()
    cfg.model.backbone.conv_cfg = COC
    # What training would read first is not looked for.
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'absent.pth'))
    match, network = converted(tmp_path, pretrained.state_dict(), cfg)
    assert match.unexpected == ['head.fc.weight', 'head.fc.bias']
    assert match.loaded == [name for name in pretrained.state_dict() if name.startswith('backbone.')]
    assert {name.partition('.')[0] for name in match.missing} == {'neck', 'bbox_head'}
    assert 'neck.lateral_convs.0.conv.weight' in match.missing and 'bbox_head.retina_cls.bias' in match.missing
    assert len(operators(network.backbone)) == 17 and len(match.operator_only) == 34
    # The prior of the focal loss: the head starts as in training.
    assert torch.allclose(network.bbox_head.retina_cls.bias, torch.tensor(-4.595), atol=1e-3)
    for level in range(4):
        assert_same(lambda x, at=level: network.backbone(x)[at], lambda x, at=level: deepest(pretrained, x)[at])


def deepest(network, x):
    network.backbone.out_indices = (0, 1, 2, 3)
    return network.backbone(x)


@pytest.mark.parametrize('family', ['ResNetV1c', 'ResNetV1d'])
def test_mmpretrain_into_a_segmentor(tmp_path, family):
    """The two libraries name the layers of the deep stem differently."""
    pytest.importorskip('mmseg')
    pretrained = plain(small(type=family))
    assert 'backbone.stem.2.bn.weight' in pretrained.state_dict()
    cfg = segmentor()
    for name, value in dict(type=family, conv_cfg=COC, stem_channels=8).items():
        cfg.model.backbone[name] = value
    match, network = converted(tmp_path, {'state_dict': pretrained.state_dict()}, cfg)
    assert match.unexpected == ['head.fc.weight', 'head.fc.bias']
    assert {name.partition('.')[0] for name in match.missing} == {'decode_head', 'auxiliary_head'}
    assert_same(lambda x: network.backbone(x)[-1], lambda x: deepest(pretrained, x)[-1])


def test_torchvision_into_a_detector(tmp_path):
    pytest.importorskip('mmdet')
    theirs = shaken(torchvision.models.resnet18())
    cfg = retinanet()
    cfg.model.backbone.conv_cfg, cfg.model.backbone.base_channels = COC, 64
    cfg.model.neck.in_channels = [64, 128, 256, 512]
    match, network = converted(tmp_path, theirs.state_dict(), cfg)
    assert match.unexpected == ['fc.weight', 'fc.bias'] and len(match.loaded) == 120
    assert_same(lambda x: theirs.fc(network.backbone(x)[-1].mean((2, 3))), theirs)


def test_detector_into_a_detector_of_other_classes(tmp_path):
    pytest.importorskip('mmdet')
    cfg = retinanet()
    for part in (cfg.model.backbone, cfg.model.neck, cfg.model.bbox_head):
        part.conv_cfg = COC
    theirs = plain(cfg)
    cfg.model.bbox_head.num_classes = 5
    match, network = converted(tmp_path, theirs.state_dict(), cfg)
    assert match.missing == match.unexpected == ['bbox_head.retina_cls.weight', 'bbox_head.retina_cls.bias']
    box = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for ours, expected in zip(network(box)[1], theirs(box)[1]):
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_neck_that_both_have_must_fit(tmp_path):
    pytest.importorskip('mmdet')
    weights = plain(retinanet()).state_dict()
    cfg = retinanet()
    cfg.model.neck.out_channels = cfg.model.bbox_head.in_channels = 32
    says = r'neck\.lateral_convs\.0\.conv\.weight is \(16, 16, 1, 1\) in the checkpoint and \(32, 16, 1, 1\)'
    refuse(tmp_path, weights, cfg, CheckpointMismatchError, says)


@pytest.mark.parametrize('name', ['neck.fpn_convs.0.conv.bias', 'bbox_head.retina_reg.bias'])
def test_a_part_that_both_have_must_be_whole(tmp_path, name):
    pytest.importorskip('mmdet')
    weights = plain(retinanet()).state_dict()
    cfg = retinanet(neck=neck(start_level=1, add_extra_convs='on_input'))
    del weights[name]
    refuse(tmp_path, weights, cfg, CheckpointMismatchError, rf'1 missing \({name}\)')


@pytest.mark.parametrize('prefixed', [True, False])
def test_bare_backbone(tmp_path, prefixed):
    pretrained = plain(small())
    state = pretrained.state_dict() if prefixed else pretrained.backbone.state_dict()
    cfg = Config(dict(default_scope='mmpretrain', model=small().model.backbone))
    match, network = converted(tmp_path, state, cfg)
    assert match.unexpected == (['head.fc.weight', 'head.fc.bias'] if prefixed else []) and not match.missing
    assert_same(lambda x: network(x)[0], lambda x: pretrained.backbone(x)[0])


def test_other_classes_leave_the_head_out(tmp_path):
    theirs = plain(small())
    weights = FORMS["by torchvision's names"](theirs.state_dict())
    match, network = converted(tmp_path, weights, small(classes=20))
    assert summary(match) == (
        '120 parameters loaded, 2 missing (head.fc.weight, head.fc.bias), 2 unexpected (fc.weight, fc.bias); '
        '16 parameters of operators at their start'
    )
    # As mmpretrain starts it, not as torch does.
    assert not network.head.fc.bias.any()
    assert_same(lambda x: network.extract_feat(x)[0], lambda x: theirs.extract_feat(x)[0])


def narrow(**changes):
    return plain(small(**changes)).state_dict()


ANOTHER = {
    'shallower': (narrow, lambda: small(depth=34), r'missing \(backbone\.layer1\.2\.conv1\.weight'),
    'deeper': (lambda: narrow(depth=34), small, r'unexpected \(backbone\.layer1\.2\.conv1\.weight'),
    'wider': (
        lambda: narrow(stem_channels=16),
        small,
        r'of another shape \(backbone\.conv1.*conv1\.weight is \(16, 3, 7, 7\) in the ch.* and \(8, 3, 7, 7\) in the',
    ),
    'other blocks': (
        lambda: {**narrow(), 'backbone.layer1.0.conv1.weight': torch.ones(8, 8, 1, 1)},
        small,
        r'backbone\.layer1\.0\.conv1\.weight is \(8, 8, 1, 1\) in the checkpoint and \(8, 8, 3, 3\)',
    ),
    'no parameters': (lambda: {'epoch': 3, 'model': {}}, small, r'0 parameters loaded.*2 unexpected \(epoch'),
    'text': (lambda: dict.fromkeys(narrow(), 'a'), small, r'0 parameters loaded.*of another shape'),
    'head of another width': (
        lambda: {**narrow(), 'head.fc.weight': torch.ones(4, 63)},
        small,
        r'head\.fc\.weight is \(4, 63\) in the checkpoint and \(4, 64\)',
    ),
    'half a backbone': (
        lambda: {name: value for name, value in narrow().items() if 'layer4' not in name},
        small,
        r'missing \(backbone\.layer4\.0\.conv1',
    ),
}


@pytest.mark.parametrize('name', ANOTHER)
def test_another_network_is_refused(tmp_path, name):
    weights, cfg, says = ANOTHER[name]
    found = rf"(?s)src\.pth' is of another network.*{says}.*--config, an operator network of the same"
    refuse(tmp_path, weights(), cfg(), CheckpointMismatchError, found)


def test_resnext_is_no_resnet(tmp_path):
    weights = torchvision.models.resnext50_32x4d().state_dict()
    says = r'layer1\.0\.conv1\.weight is \(128, 64, 1, 1\) in the checkpoint and \(64, 64, 1, 1\)'
    refuse(tmp_path, weights, None, CheckpointMismatchError, says)


FIRST = r'backbone\.layer1\.0\.conv1'
STARTS = {
    'kaiming': (dict(type='CoCConv', super_init='kaiming'), r"do not start as the identity.*super_init='identity'"),
    'standardized': (dict(type='CoCConv', standardize=True), r"do not start as the identity.*super_init='identity'"),
    'continuous': (dict(type='CKConv', hidden=4), r'\(CKConv2d\) have no basic kernel.*where'),
    'kervolution': (dict(type='KervConv', learnable=True), r'\(KervConv2d\) compute something other.*where'),
}


@pytest.mark.parametrize('name', STARTS)
def test_operators_must_start_as_the_convolution(tmp_path, name):
    conv_cfg, says = STARTS[name]
    refuse(
        tmp_path,
        narrow(),
        small(conv_cfg=conv_cfg),
        CheckpointMismatchError,
        rf'src\.pth.*8 operators such as {FIRST} {says}',
    )


def test_linear_kervolution_is_a_convolution(tmp_path):
    pretrained, cfg = plain(small()), small()
    cfg.model.backbone.conv_cfg = dict(type='KervConv', kernel='linear')
    match, network = converted(tmp_path, pretrained.state_dict(), cfg)
    assert not match.missing and not match.unexpected and not match.operator_only
    assert_same(logits(network), logits(pretrained))


def test_bomb_is_not_set_off(tmp_path):
    bomb = write(tmp_path / 'bomb.pth', hidden('state_dict', execute(tmp_path / 'target')))
    with pytest.raises(UnsafeCheckpointError, match='Nothing of it was executed'):
        convert_checkpoint(bomb, tmp_path / 'dst.pth')
    assert [p.name for p in tmp_path.iterdir()] == ['bomb.pth']


def test_missing_parts_start_the_same_each_time(tmp_path):
    weights, states = narrow(), []
    for _ in range(2):
        torch.rand(1)
        states.append(converted(tmp_path, weights, small(classes=5))[1].state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert states[0]['head.fc.weight'].std() > 0


def tool(*arguments):
    return run_tool('tools/model_converters/plain_to_mmkerv.py', *arguments)


def test_tool(tmp_path):
    cfg = small(classes=9)
    cfg.dump(tmp_path / 'config.py')
    torch.save(narrow(), tmp_path / 'src.pth')
    src, dst = tmp_path / 'src.pth', tmp_path / 'out' / 'dst.pth'
    done = tool(src, dst, '--config', tmp_path / 'config.py', '--cfg-options', 'model.head.num_classes=3')
    assert done.status == 0, done.err
    assert done.out.endswith(
        '120 parameters loaded, 2 missing (head.fc.weight, head.fc.bias), 2 unexpected (head.fc.weight, head.fc.bias); '
        '16 parameters of operators at their start\n'
        f'wrote {dst}\n'
    ), done.out
    assert torch.load(dst, weights_only=True)['state_dict']['head.fc.bias'].shape == (3,)


def test_tool_wants_a_config_for_its_options(tmp_path):
    done = tool(tmp_path / 'a.pth', tmp_path / 'b.pth', '--cfg-options', 'model.head.num_classes=3')
    assert done.status == 2 and 'error: --cfg-options changes the config: give --config' in done.err
