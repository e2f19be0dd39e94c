"""Conversion of plain checkpoints of torchvision and OpenMMLab: names, initial values, outputs, refusals."""

import pytest
import torch
import torchvision

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')
pytest.importorskip('mmpretrain')

from mmengine.config import Config

from mmkerv.engine.checkpoint.convert_plain import convert_checkpoint, infer_config
from mmkerv.errors import CheckpointMismatchError, ConfigError, UnsafeCheckpointError
from tests.engine.checkpoint.plain_networks import (
    assert_refused,
    assert_same,
    converted,
    logits,
    narrow,
    plain,
    shaken,
    small,
)
from tests.engine.small_networks import operators
from tests.malicious_files import execute, hidden, write
from tests.tool_process import run_tool

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
def test_checkpoint_of_every_form_is_converted(tmp_path, form):
    theirs = plain(small())
    if form == 'half':
        theirs.half().float()
    weights = FORMS[form](theirs.state_dict())
    match, network = converted(tmp_path, weights, small())
    assert len(match.loaded) == (102 if form == 'before torch 1.0' else 122)
    assert not match.missing and not match.unexpected and len(match.operator_only) == 8
    assert network.backbone.conv1.weight.dtype == torch.float32
    assert_same(logits(network), logits(theirs))


def test_resnet_is_identified_by_its_names(tmp_path):
    theirs = shaken(torchvision.models.resnet18(num_classes=7))
    match, network = converted(tmp_path, theirs.state_dict())
    assert str(match).startswith('122 parameters loaded, 0 missing, 0 unexpected; 17 operator parameters at their')
    assert len(operators(network)) == 17
    assert_same(logits(network), theirs)


def test_resnet_with_bottlenecks_is_identified(tmp_path):
    theirs = shaken(torchvision.models.resnet50(num_classes=5))
    match, network = converted(tmp_path, theirs.state_dict())
    assert str(match).startswith('320 parameters loaded, 0 missing, 0 unexpected; 17 operator parameters at their')
    assert network.head.fc.out_features == 5
    assert_same(logits(network), theirs)


@pytest.mark.parametrize('depth', [18, 34, 50, 101, 152])
@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_depth_follows_from_the_number_of_blocks(depth, prefix):
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
    assert_refused(
        tmp_path, dict.fromkeys(names, torch.ones(2)), None, ConfigError, r"src\.pth' cannot be told.*--config"
    )


def test_keys_that_are_not_strings_are_refused(tmp_path):
    message = r"src\.pth' holds a int, not parameters by name"
    assert_refused(tmp_path, {0: torch.ones(2)}, None, CheckpointMismatchError, message)


@pytest.mark.parametrize('prefixed', [True, False])
def test_backbone_alone_is_converted(tmp_path, prefixed):
    pretrained = plain(small())
    state = pretrained.state_dict() if prefixed else pretrained.backbone.state_dict()
    cfg = Config(dict(default_scope='mmpretrain', model=small().model.backbone))
    match, network = converted(tmp_path, state, cfg)
    assert match.unexpected == (['head.fc.weight', 'head.fc.bias'] if prefixed else []) and not match.missing
    assert_same(lambda x: network(x)[0], lambda x: pretrained.backbone(x)[0])


def test_head_for_other_classes_is_left_out(tmp_path):
    theirs = plain(small())
    weights = FORMS["by torchvision's names"](theirs.state_dict())
    match, network = converted(tmp_path, weights, small(classes=20))
    assert str(match).startswith(
        '120 parameters loaded, 2 missing (head.fc.weight, head.fc.bias), 2 unexpected (fc.weight, fc.bias); '
        '8 operator parameters at their initial values (backbone.layer'
    )
    # mmpretrain initialises the bias with 0, unlike torch.
    assert not network.head.fc.bias.any()
    assert_same(lambda x: network.extract_feat(x)[0], lambda x: theirs.extract_feat(x)[0])


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
    weights, cfg, message = ANOTHER[name]
    found = rf"(?s)src\.pth' is of another network.*{message}.*--config, an operator network of the same"
    assert_refused(tmp_path, weights(), cfg(), CheckpointMismatchError, found)


def test_resnext_is_not_taken_for_a_resnet(tmp_path):
    weights = torchvision.models.resnext50_32x4d().state_dict()
    message = r'layer1\.0\.conv1\.weight is \(128, 64, 1, 1\) in the checkpoint and \(64, 64, 1, 1\)'
    assert_refused(tmp_path, weights, None, CheckpointMismatchError, message)


FIRST = r'backbone\.layer1\.0\.conv1'
STARTS = {
    'kaiming': (dict(type='CoCConv', super_init='kaiming'), r"do not start as the identity.*super_init='identity'"),
    'standardized': (dict(type='CoCConv', standardize=True), r"do not start as the identity.*super_init='identity'"),
    'continuous': (dict(type='CKConv', hidden=4), r'\(CKConv2d\) have no basic kernel.*where'),
    'low rank': (
        dict(type='LowRankConv'),
        r'\(LowRankConv2d\) only come near it; tools/model_converters/decompose\.py',
    ),
    'kervolution': (dict(type='KervConv', learnable=True), r'\(KervConv2d\) compute something other.*where'),
}


@pytest.mark.parametrize('name', STARTS)
def test_operators_must_start_as_the_convolution(tmp_path, name):
    conv_cfg, message = STARTS[name]
    assert_refused(
        tmp_path,
        narrow(),
        small(conv_cfg=conv_cfg),
        CheckpointMismatchError,
        rf'src\.pth.*[89] operators such as {FIRST} {message}',
    )


def test_linear_kervolution_is_a_convolution(tmp_path):
    pretrained, cfg = plain(small()), small()
    cfg.model.backbone.conv_cfg = dict(type='KervConv', kernel='linear')
    match, network = converted(tmp_path, pretrained.state_dict(), cfg)
    assert not match.missing and not match.unexpected and not match.operator_only
    assert_same(logits(network), logits(pretrained))


def test_malicious_pickle_is_not_executed(tmp_path):
    file = write(tmp_path / 'malicious.pth', hidden('state_dict', execute(tmp_path / 'target')))
    with pytest.raises(UnsafeCheckpointError, match='Nothing of it was executed'):
        convert_checkpoint(file, tmp_path / 'dst.pth')
    assert [p.name for p in tmp_path.iterdir()] == ['malicious.pth']


def test_missing_parts_are_initialised_reproducibly(tmp_path):
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
        '8 operator parameters at their initial values (backbone.layer1.0.conv1.super_layers.0.weight, ...)\n'
        f'wrote {dst}\n'
    ), done.out
    assert torch.load(dst, weights_only=True)['state_dict']['head.fc.bias'].shape == (3,)


def test_tool_wants_a_config_for_its_options(tmp_path):
    done = tool(tmp_path / 'a.pth', tmp_path / 'b.pth', '--cfg-options', 'model.head.num_classes=3')
    assert done.status == 2 and 'error: --cfg-options changes the config: give --config' in done.err
