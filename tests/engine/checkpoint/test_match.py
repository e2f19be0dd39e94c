import re

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from torch import nn

from mmkerv.deploy.trained_model import build_model
from mmkerv.engine import match_checkpoint, require_match, require_pretrained
from mmkerv.engine.checkpoint.match import CheckpointMatchHook
from mmkerv.errors import CheckpointMismatchError, NonFiniteWeightsError
from mmkerv.ops import (
    CondConv2d,
    FDConv2d,
    InceptionDWConv2d,
    LightweightConv1d,
    LowRankConv2d,
    ShiftwiseConv2d,
    switch_to_deploy,
)
from mmkerv.ops.inception_dw import PARTS
from tests.engine.tiny_runner import TinyModel, tiny_runner
from tests.ops.test_fdconv import official_state

HOOK = 'mmkerv.CheckpointMatchHook'


@pytest.fixture
def log(caplog):
    """Messages logged through mmengine's current logger."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def associated(**options) -> TinyModel:
    """Return a network whose operator is no longer the identity."""
    model = TinyModel(**options)
    for parameter in model.conv.super_layers.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def folded() -> TinyModel:
    model = associated()
    switch_to_deploy(model)
    return model


def prefixed(state: dict) -> dict:
    return {f'module.{key}': value for key, value in state.items()}


CHECKPOINTS = {
    'its own': (lambda: associated().state_dict(), 'same'),
    'plain': (lambda: TinyModel(nn.Conv2d).state_dict(), 'plain'),
    'folded': (lambda: folded().state_dict(), 'plain'),
    'its own, of a wrapper': (lambda: prefixed(associated().state_dict()), 'same'),
    'plain, of a wrapper': (lambda: prefixed(TinyModel(nn.Conv2d).state_dict()), 'plain'),
    'without num_batches_tracked': (
        lambda: {k: v for k, v in associated().state_dict().items() if 'num_batches' not in k},
        'same',
    ),
}
OTHERS = {
    'another network': (lambda: nn.Linear(2, 2).state_dict(), r'missing \(conv\.weight.*2 unexpected \(weight, bias\)'),
    'a layer less': (lambda: TinyModel().conv.state_dict(prefix='conv.'), r'missing \(norm\.weight'),
    'a layer more': (
        lambda: {**TinyModel().state_dict(), 'head.weight': torch.ones(1)},
        r'unexpected \(head\.weight\)',
    ),
    'another size': (
        lambda: {**TinyModel().state_dict(), 'conv.weight': torch.ones(8, 3, 5, 5)},
        r'1 of another shape \(conv\.weight\)',
    ),
    'other super kernels': (lambda: TinyModel(kernel_plus=6).state_dict(), r'another shape \(conv\.super_layers\.0\.w'),
    'a super bias': (
        lambda: TinyModel(super_bias=True).state_dict(),
        r'unexpected \(conv\.super_layers\.0\.bias\).*trained with super_bias=True: add that to conv_cfg',
    ),
    'one super layer more': (lambda: TinyModel(num_layers=2).state_dict(), r'unexpected \(conv\.super_layers\.1\.'),
    'no tensors': (lambda: dict.fromkeys(TinyModel().state_dict(), 'a'), 'of another shape'),
}
WRAPPERS = pytest.mark.parametrize('wrap', [lambda m: m, nn.DataParallel], ids=['bare', 'wrapped'])


@WRAPPERS
@pytest.mark.parametrize('name', CHECKPOINTS)
def test_matching_checkpoint_is_accepted(name, wrap, log):
    make, kind = CHECKPOINTS[name]
    model, state = TinyModel(), make()
    match = require_match(wrap(model), state, 'a.pth')
    assert not (match.missing or match.unexpected or match.shapes)
    assert len(match.loaded) == len(state)
    assert len(match.operator_only) == (1 if kind == 'plain' else 0)
    assert ('a.pth is a plain checkpoint; its 1 operator parameters keep the identity' in log.text) == (kind == 'plain')


@WRAPPERS
@pytest.mark.parametrize('name', CHECKPOINTS)
def test_plain_checkpoint_needs_the_identity(name, wrap):
    make, kind = CHECKPOINTS[name]
    model = wrap(TinyModel(super_init='kaiming'))
    if kind == 'same':
        require_match(model, make(), 'a.pth')
        return
    with pytest.raises(CheckpointMismatchError, match=r"'a\.pth'.*plain.*such as conv do not.*super_init='identity'"):
        require_match(model, make(), 'a.pth')


@pytest.mark.parametrize('name', CHECKPOINTS)
def test_accepted_checkpoint_gives_the_same_outputs(name):
    """Loaded into the network of the config, it gives the outputs of the network it was saved from."""
    model = MODELS.build(dict(type=TinyModel))
    cfg = Config(dict(model=dict(type=TinyModel)))
    state, x = CHECKPOINTS[name][0](), torch.randn(2, 3, 8, 8)
    source = {'plain': TinyModel(nn.Conv2d), 'folded': folded()}.get(name.split(',')[0], associated())
    source.load_state_dict({key.removeprefix('module.'): value for key, value in state.items()}, strict=False)
    loaded = build_model(cfg, state, 'a.pth')
    assert type(loaded) is type(model) and not loaded.training
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), source.eval()(x), rtol=1e-5, atol=1e-6)


@WRAPPERS
@pytest.mark.parametrize('name', OTHERS)
def test_checkpoint_of_another_network_is_refused(name, wrap):
    make, message = OTHERS[name]
    with pytest.raises(CheckpointMismatchError, match=rf"(?s)'a\.pth' is not of the network of the config.*{message}"):
        require_match(wrap(TinyModel()), make(), 'a.pth')


def test_long_lists_are_truncated():
    text = str(match_checkpoint(TinyModel(), {}))
    assert text.startswith('0 parameters loaded, ') and ', ...)' in text and len(text) < 200


def save(path, state, **more) -> str:
    torch.save({'meta': {'epoch': 1, 'iter': 2}, 'message_hub': {}, 'state_dict': state, **more}, path)
    return str(path)


def loaded_by(tmp_path, file, strict, model=None, **kwargs):
    runner = tiny_runner(
        tmp_path / 'run', model=model, load_from=file, custom_hooks=[dict(type=HOOK, strict=strict)], **kwargs
    )
    runner.load_or_resume()
    return runner


def logged(tmp_path) -> str:
    return next(tmp_path.glob('run/*/*.log')).read_text()


@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize('name', CHECKPOINTS)
def test_hook_accepts_a_matching_checkpoint(tmp_path, name, strict):
    make, kind = CHECKPOINTS[name]
    file = save(tmp_path / 'a.pth', make())
    runner = loaded_by(tmp_path, file, strict)
    weight = {k.removeprefix('module.'): v for k, v in make().items()}['conv.weight']
    assert torch.equal(runner.model.conv.weight, weight)
    if strict:
        assert (f'mmkerv: {file} is a plain checkpoint; its 1' in logged(tmp_path)) == (kind == 'plain')
    else:
        assert f'mmkerv: {file}: {len(make())} parameters loaded' in logged(tmp_path)
        assert ('1 operator parameters at their initial values (conv.super_' in logged(tmp_path)) == (kind == 'plain')


@pytest.mark.parametrize('name', OTHERS)
def test_strict_hook_stops_the_runner(tmp_path, name):
    file = save(tmp_path / 'a.pth', OTHERS[name][0]())
    model = TinyModel()
    before = model.conv.weight.clone()
    with pytest.raises(CheckpointMismatchError, match=rf"'{file}' is not of the network"):
        loaded_by(tmp_path, file, True, model)
    assert torch.equal(model.conv.weight, before), 'nothing was loaded'


def test_hook_that_is_not_strict_refuses_another_option(tmp_path):
    file = save(tmp_path / 'a.pth', TinyModel(super_bias=True).state_dict())
    with pytest.raises(CheckpointMismatchError, match=r'was trained with super_bias=True.*Add that to conv_cfg'):
        loaded_by(tmp_path, file, False)


def test_hook_that_is_not_strict_logs_the_report(tmp_path):
    state = {**TinyModel().conv.state_dict(prefix='conv.'), 'head.weight': torch.ones(1)}
    file = save(tmp_path / 'a.pth', state)
    runner = loaded_by(tmp_path, file, False)
    assert torch.equal(runner.model.conv.weight, state['conv.weight'])
    assert f'mmkerv: {file}: 3 parameters loaded, 4 missing (norm.weight, ' in logged(tmp_path)
    assert '1 unexpected (head.weight)' in logged(tmp_path)


@pytest.mark.parametrize('super_init', ['kaiming', 'identity'])
def test_hook_that_is_not_strict_warns_of_operators_that_change_plain_kernels(tmp_path, super_init):
    file = save(tmp_path / 'a.pth', TinyModel(nn.Conv2d).state_dict())
    loaded_by(tmp_path, file, False, TinyModel(super_init=super_init))
    warning = f'WARNING - mmkerv: {file} is of the plain network, and 1 operators of TinyModel such as conv do not'
    assert (warning in logged(tmp_path)) == (super_init == 'kaiming')


def test_only_a_training_may_start_from_the_weights_of_another_network(tmp_path):
    """By the hook without an argument, as tools/train.py writes it into the config that tools/test.py reads."""
    file = save(tmp_path / 'a.pth', TinyModel().conv.state_dict(prefix='conv.'))
    hooks = [dict(type=HOOK)]
    tiny_runner(tmp_path / 'run', load_from=file, custom_hooks=hooks).train()
    assert '3 parameters loaded, 4 missing' in logged(tmp_path)
    for name, resume in (('test', False), ('resume', True)):
        runner = tiny_runner(tmp_path / name, load_from=file, resume=resume, custom_hooks=hooks)
        with pytest.raises(CheckpointMismatchError, match='is not of the network of the config: 3 parameters loaded'):
            (runner.train if resume else runner.val)()


@pytest.mark.parametrize('strict', [True, False])
def test_hook_refuses_a_checkpoint_without_matching_keys(tmp_path, strict):
    file = save(tmp_path / 'a.pth', nn.Linear(2, 2).state_dict())
    with pytest.raises(CheckpointMismatchError, match=rf"'{file}'.*0 parameters loaded|shares no parameter"):
        loaded_by(tmp_path, file, strict)


@pytest.mark.parametrize(
    'content', [[1, 2], torch.ones(2), {'meta': {}, 'state_dict': [1]}], ids=['list', 'tensor', 'odd']
)
@pytest.mark.parametrize('strict', [True, False])
def test_hook_refuses_a_checkpoint_without_weights(tmp_path, content, strict):
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(CheckpointMismatchError, match=r'a\.pth.* holds a (list|Tensor), not parameters by name'):
        loaded_by(tmp_path, str(tmp_path / 'a.pth'), strict)


def test_hook_refuses_to_resume_from_weights_alone(tmp_path):
    torch.save(TinyModel().state_dict(), tmp_path / 'a.pth')
    with pytest.raises(CheckpointMismatchError, match=r'a\.pth.* no meta and no message_hub.*--cfg-options load_from='):
        loaded_by(tmp_path, str(tmp_path / 'a.pth'), True, resume=True)


KERV = "model = dict(type='Net', conv_cfg=dict(type='mmkerv.KervConv', kernel='gaussian'))"


def checked(tmp_path, trained, own, resume):
    """Let the strict hook check a checkpoint of ``TinyModel`` whose config has the text ``trained``."""
    meta = dict(epoch=1, iter=2, cfg=trained)
    file = tmp_path / 'a.pth'
    tmp_path.mkdir(exist_ok=True)
    torch.save(dict(meta=meta, message_hub={}, state_dict=TinyModel().state_dict()), file)
    runner = tiny_runner(tmp_path / 'run', load_from=str(file), resume=resume)
    runner.cfg = Config(dict(model=dict(type='Net', conv_cfg=own)))
    CheckpointMatchHook(strict=True).after_load_checkpoint(runner, torch.load(file))
    return 'was trained with other operators' in logged(tmp_path)


@pytest.mark.parametrize('resume', [False, True], ids=['test', 'resume'])
@pytest.mark.parametrize(
    ('own', 'words'),
    [
        (dict(type='mmkerv.KervConv', kernel='gaussian'), None),
        (dict(type='mmkerv.KervConv', kernel='sigmoid'), "was KervConv(kernel='gaussian') and is KervConv(kernel='sig"),
        (None, "model.conv_cfg was KervConv(kernel='gaussian') and is no operator"),
    ],
    ids=['same', 'kernel', 'plain'],
)
def test_parameters_of_the_same_names_may_belong_to_another_operator(tmp_path, own, words, resume):
    """The keys and shapes of the checkpoint are the network's in all cases: only the configs differ."""
    if resume and words:
        with pytest.raises(CheckpointMismatchError, match=rf'resumed with other operators: .*{re.escape(words)}'):
            checked(tmp_path, KERV, own, resume)
    else:
        assert checked(tmp_path, KERV, own, resume) == bool(words)


def test_a_plain_checkpoint_starts_operators_but_does_not_resume_them(tmp_path):
    plain, own = "model = dict(type='Net')", dict(type='mmkerv.CoCConv')
    assert not checked(tmp_path / '1', plain, own, resume=False)
    with pytest.raises(CheckpointMismatchError, match='was no operator and is CoCConv'):
        checked(tmp_path / '2', plain, own, resume=True)


@pytest.mark.parametrize('text', [None, 3, '', 'model = (', "__import__('os').abort()"], ids=repr)
def test_a_checkpoint_without_a_readable_config_is_not_compared(tmp_path, text):
    assert not checked(tmp_path, text, dict(type='mmkerv.CoCConv'), resume=True)


def test_hook_names_the_file_found_by_auto_resume(tmp_path):
    file = save(tmp_path / 'a.pth', nn.Linear(2, 2).state_dict())
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'last_checkpoint').write_text(file)
    with pytest.raises(CheckpointMismatchError, match=rf"'{file}'"):
        loaded_by(tmp_path, None, True, resume=True)


@pytest.mark.parametrize('fits', [True, False])
def test_hook_checks_the_raw_weights_on_resume(tmp_path, fits):
    """With EMAHook a checkpoint's state_dict holds the averaged weights and ema_state_dict the raw ones."""
    hooks = [dict(type='EMAHook'), dict(type=HOOK)]
    first = tiny_runner(tmp_path, custom_hooks=hooks)
    first.train()
    file = str(tmp_path / 'epoch_1.pth')
    saved = torch.load(file, weights_only=False)
    raw = first.model.conv.weight.detach().clone()
    assert torch.equal(raw, saved['ema_state_dict']['module.conv.weight'])
    assert not torch.equal(raw, saved['state_dict']['conv.weight'])
    if not fits:
        saved['ema_state_dict']['module.conv.weight'] = torch.ones(8, 3, 5, 5)
        torch.save(saved, file)
    second = tiny_runner(tmp_path, model=TinyModel(), custom_hooks=hooks, load_from=file, resume=True)
    second.call_hook('before_run')
    if fits:
        second.load_checkpoint(file)
        assert torch.equal(second.model.conv.weight, raw)
    else:
        with pytest.raises(CheckpointMismatchError, match=r'of another shape \(conv\.weight\)'):
            second.load_checkpoint(file)


def test_a_plain_weight_that_will_be_decomposed_is_what_the_operator_needs():
    model = nn.Sequential(nn.ReLU(), LowRankConv2d(8, 6, 3, rank=2))
    state = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 6, 3)).state_dict()
    for match in (
        match_checkpoint(model, state),
        require_match(model, state, 'a.pth'),
        require_pretrained(model, state, 'a.pth'),
    ):
        assert sorted(match.loaded) == ['1.bias', '1.core', '1.first', '1.last']
        assert not (match.missing or match.unexpected or match.shapes or match.weightless)
    assert list(state) == ['1.weight', '1.bias']
    state['1.weight'][0, 0, 0, 0] = float('nan')
    with pytest.raises(NonFiniteWeightsError, match=r"checkpoint 'a\.pth' holds NaN in 1\.weight"):
        require_match(model, state, 'a.pth')


def test_a_plain_weight_of_another_shape_is_not_decomposed():
    model = nn.Sequential(nn.ReLU(), LowRankConv2d(8, 6, 3, rank=2))
    state = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 6, 5)).state_dict()
    match = match_checkpoint(model, state)
    assert (match.loaded, match.shapes) == (['1.bias'], ['1.weight'])
    assert not (match.missing or match.unexpected or match.operator_only)
    with pytest.raises(CheckpointMismatchError, match=r'0 unexpected; 1 of another shape \(1\.weight\)'):
        require_match(model, state, 'a.pth')
    shapes = r'1\.weight is \(6, 8, 5, 5\) in the checkpoint and the network decomposes \(6, 8, 3, 3\)\. Give'
    with pytest.raises(CheckpointMismatchError, match=shapes):
        require_pretrained(model, state, 'a.pth')
    # Beside the layer's own parameters there is nothing to decompose.
    assert match_checkpoint(model, {**model.state_dict(), **state}).unexpected == ['1.weight']


def official_layer() -> tuple[nn.Module, dict]:
    op = FDConv2d(18, 20, 3, kernel_num=4, gate_norm='bn', band_order='official')
    return op, official_state(op)


def conditional_layer() -> tuple[nn.Module, dict]:
    return CondConv2d(4, 6, 3, experts=2, routing='given'), {'weight': torch.randn(2, 216), 'bias': torch.randn(2, 6)}


def inception_layer() -> tuple[nn.Module, dict]:
    op = InceptionDWConv2d(16, 16, 11, padding=5, groups=16)
    state = op.state_dict()
    del state['bias']
    return op, state | {f'{part}.bias': torch.ones(2) for part in PARTS}


def lightweight_layer() -> tuple[nn.Module, dict]:
    op = LightweightConv1d(4, 4, 5, groups=4, heads=2)
    return op, {'weight': torch.randn(op.head_weight.shape), 'bias': torch.randn(4)}


def shiftwise_layer() -> tuple[nn.Module, dict]:
    op = ShiftwiseConv2d(8, 8, 9, groups=8, bias=False)
    names = {'paths': 'LoRAs', 'norm_width': 'bn_lora1', 'norm_height': 'bn_lora2', 'norm_centre': 'bn_small'}
    state = {key: value for key, value in op.state_dict().items() if '.' in key}
    return op, {names[key.partition('.')[0]] + '.' + key.partition('.')[2]: v for key, v in state.items()}


PUBLISHED = [official_layer, conditional_layer, inception_layer, lightweight_layer, shiftwise_layer]


@pytest.mark.parametrize('make', PUBLISHED, ids=['FDConv', 'CondConv', 'InceptionDWConv', 'Lightweight', 'Shiftwise'])
def test_a_published_layout_is_what_the_operator_needs(make):
    op, published = make()
    model, state = nn.Sequential(nn.ReLU(), op), {f'1.{key}': value for key, value in published.items()}
    given = dict(state)
    model.load_state_dict(state)
    for match in (match_checkpoint(model, state), require_match(model, state, 'a.pth')):
        assert sorted(match.loaded) == sorted(model.state_dict())
        assert not (match.missing or match.unexpected or match.shapes or match.operator_only)
    assert list(given) == list(state)
    # Values that are no tensors are reported, not read.
    loaded = match_checkpoint(model, dict.fromkeys(state, 'x')).loaded
    assert not any(name in loaded for name, _ in model.named_parameters())
