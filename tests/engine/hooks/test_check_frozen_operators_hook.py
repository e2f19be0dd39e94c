import logging
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

import mmkerv.models.converted
from mmkerv.engine import CheckFrozenOperatorsHook
from mmkerv.engine.config.prepare import prepare
from mmkerv.engine.hooks.check_frozen_operators_hook import is_identity
from mmkerv.errors import ConfigError
from mmkerv.ops import CKConv, CoCConv, CoCConv2d, KervConv
from tests.engine.tiny_runner import TinyModel, tiny_runner

HOOK = dict(type='mmkerv.CheckFrozenOperatorsHook')
EMA = dict(type='EMAHook')
SAID = 'mmkerv: 1 operators are frozen, their super layers or kernel nets will not train: conv; frozen_stages=-1'
AND_RANDOM = 'the weights of 1 of them are random'
REFUSED = r'1 operators are frozen at random \(conv\)\. No checkpoint gave conv\.{}.*stay random\. .*frozen_stages=-1'


class Frozen(TinyModel):
    """TinyModel with an operator frozen in the constructor (ResNet of mmdetection) or in ``train`` (MobileNetV2)."""

    def __init__(self, late: bool = False, **options):
        super().__init__(**options)
        self.conv.requires_grad_(late)

    def train(self, mode: bool = True):
        super().train(mode)
        self.conv.requires_grad_(False)
        return self


def moved(model: nn.Module) -> dict:
    """Return its state dict with every parameter set to a value that no initialisation gives."""
    return {key: torch.rand(value.shape) + 1 for key, value in model.state_dict().items()}


def trained(tmp_path, model: nn.Module, checkpoint: dict | None = None, by: str = 'init_cfg', hooks=(HOOK,), **kwargs):
    """Train a model that gets a checkpoint, and return the runner."""
    file = str(tmp_path / 'a.pth')
    if checkpoint is not None:
        torch.save({'meta': {'epoch': 0, 'iter': 0}, 'message_hub': {}, 'state_dict': checkpoint}, file)
        if by == 'init_cfg':
            model.init_cfg = dict(type='Pretrained', checkpoint=file)
        else:
            kwargs |= dict(load_from=file, resume=by == 'resume')
    runner = tiny_runner(tmp_path / 'run', model, custom_hooks=list(hooks), **kwargs)
    runner.train()
    return runner


def logged(tmp_path) -> str:
    return next(tmp_path.glob('run/*/*.log')).read_text()


def watched(model: nn.Module) -> bool:
    return any(m._load_state_dict_pre_hooks or m._load_state_dict_post_hooks for m in model.modules())


BY = pytest.mark.parametrize('by', ['init_cfg', 'load_from'])
LATE = pytest.mark.parametrize('late', [False, True], ids=['from the start', 'in train'])


@LATE
@pytest.mark.parametrize(
    'options, name', [(dict(super_init='kaiming'), r'super_layers\.0\.weight'), (dict(conv=CKConv), r'kernel_net\.lay')]
)
def test_operators_frozen_with_random_parameters_are_refused(tmp_path, late, options, name):
    model = Frozen(late, **options)
    with pytest.raises(ConfigError, match=REFUSED.format(name)) as caught:
        trained(tmp_path, model)
    message = str(caught.value)
    assert "prefix='backbone.'" in message and 'load_from=FILE' in message
    assert ("super_init='identity'" in message) == (model.conv.weight is not None)
    assert not watched(model)


@BY
def test_plain_checkpoint_does_not_give_them_parameters(tmp_path, by):
    plain = {k: v for k, v in moved(TinyModel()).items() if 'super_layers' not in k}
    with pytest.raises(ConfigError, match=REFUSED.format(r'super_layers\.0\.weight')):
        trained(tmp_path, Frozen(super_init='kaiming'), plain, by)


@BY
@pytest.mark.parametrize('lacking', ['conv.super_layers.0.bias', 'conv.super_layers.0.weight'])
@pytest.mark.parametrize('other', ['absent', 'of another shape'])
def test_some_of_the_parameters_are_not_enough(tmp_path, by, lacking, other):
    state = moved(TinyModel(super_bias=True))
    state = {k: torch.ones(7) if k == lacking else v for k, v in state.items() if other != 'absent' or k != lacking}
    with pytest.raises(ConfigError, match=REFUSED.format(lacking.removeprefix('conv.'))):
        trained(tmp_path, Frozen(super_init='kaiming', super_bias=True), state, by)


@LATE
@pytest.mark.parametrize('by', ['init_cfg', 'load_from', 'resume'])
@pytest.mark.parametrize('options', [dict(super_init='kaiming'), {}, dict(conv=CKConv)], ids=['coc', 'default', 'ck'])
def test_operators_loaded_from_a_checkpoint_pass(tmp_path, late, by, options):
    model, state = Frozen(late, **options), moved(TinyModel(**options))
    if by == 'resume':
        trained(tmp_path / 'first', TinyModel(**options), hooks=())
        file = tmp_path / 'first' / 'run' / 'epoch_1.pth'
        trained(tmp_path, model, load_from=str(file), resume=True, train_cfg=dict(by_epoch=True, max_epochs=2))
        state = torch.load(file, weights_only=False)['state_dict']
    else:
        trained(tmp_path, model, state, by)
    assert logged(tmp_path).count(SAID) == 1 and AND_RANDOM not in logged(tmp_path)
    for key, value in model.state_dict(keep_vars=True).items():
        if key.startswith('conv.'):
            assert torch.equal(value, state[key]), key
    assert not watched(model)


@BY
def test_identity_passes_with_a_plain_checkpoint(tmp_path, by):
    plain = {k: v for k, v in moved(TinyModel()).items() if 'super_layers' not in k}
    trained(tmp_path, Frozen(), plain, by)
    assert logged(tmp_path).count(SAID) == 1 and AND_RANDOM not in logged(tmp_path)


def test_identity_without_a_checkpoint_passes_with_a_warning_of_random_weights(tmp_path):
    trained(tmp_path, Frozen())
    assert logged(tmp_path).count(SAID) == 1 and logged(tmp_path).count(AND_RANDOM) == 1
    assert 'WARNING - mmkerv: 1 operators are frozen' in logged(tmp_path)


@pytest.mark.parametrize(
    'model',
    [
        lambda: TinyModel(super_init='kaiming'),
        lambda: Frozen(conv=nn.Conv2d),
        lambda: Frozen(conv=KervConv, learnable=True),
    ],
    ids=['not frozen', 'plain', 'kervolution'],
)
def test_networks_without_frozen_operators_pass_silently(tmp_path, model):
    model = model()
    trained(tmp_path, model)
    assert 'are frozen' not in logged(tmp_path) and not watched(model)


@pytest.mark.parametrize('hooks', [(HOOK, EMA), (EMA, HOOK)], ids=['first', 'last'])
@BY
def test_averaged_weights_are_not_watched(tmp_path, hooks, by):
    runner = trained(tmp_path, Frozen(super_init='kaiming'), moved(TinyModel()), by, hooks)
    assert logged(tmp_path).count(SAID) == 1
    average = next(hook for hook in runner.hooks if hasattr(hook, 'ema_model')).ema_model
    assert not watched(average) and not watched(runner.model)
    with pytest.raises(ConfigError, match='at random'):
        trained(tmp_path / 'second', Frozen(super_init='kaiming'), hooks=hooks)


def test_evaluation_without_training_removes_its_hooks(tmp_path):
    model = Frozen(super_init='kaiming')
    tiny_runner(tmp_path, model, custom_hooks=[HOOK]).val()
    assert not watched(model)


def test_second_training_checks_again():
    """It loads nothing, and what the first one has loaded is still there."""
    model = Frozen(super_init='kaiming')
    hook = CheckFrozenOperatorsHook()
    runner = SimpleNamespace(model=model)
    hook.before_run(runner)
    load_state_dict(model, moved(model))
    hook.before_train(runner)
    hook.before_run(runner)
    hook.before_train(runner)
    runner.model = Frozen(super_init='kaiming')
    hook.before_run(runner)
    with pytest.raises(ConfigError, match='at random'):
        hook.before_train(runner)


@pytest.mark.parametrize('conv_cfg', [dict(type='CoCConv'), dict(type='LowRankConv')], ids=lambda cfg: cfg['type'])
def test_weights_of_the_constructor_are_not_random(warnings, conv_cfg):
    """Of a backbone such as TimmBackbone(pretrained=True), with operators in it."""
    pretrained = nn.Sequential(nn.Conv2d(8, 8, 3))
    pretrained._is_init = True
    model = nn.Sequential(mmkerv.models.converted.apply_conv_cfg(pretrained, conv_cfg, None)).requires_grad_(False)
    hook, runner = CheckFrozenOperatorsHook(), SimpleNamespace(model=model)
    hook.before_run(runner)
    hook.before_train(runner)
    assert '1 operators are frozen' in warnings()[-1] and AND_RANDOM not in warnings()[-1]


def test_operators_at_random_in_pretrained_networks_are_refused():
    pretrained = nn.Sequential(nn.Conv2d(8, 8, 3))
    pretrained._is_init = True
    coc = dict(type='CoCConv', super_init='kaiming')
    model = mmkerv.models.converted.apply_conv_cfg(pretrained, coc, None).requires_grad_(False)
    hook, runner = CheckFrozenOperatorsHook(), SimpleNamespace(model=model)
    hook.before_run(runner)
    with pytest.raises(ConfigError, match='at random'):
        hook.before_train(runner)


@pytest.mark.parametrize('wrap', [lambda m: m, nn.DataParallel], ids=['bare', 'wrapped'])
@pytest.mark.parametrize('load', [load_state_dict, lambda m, s: getattr(m, 'module', m).load_state_dict(s, False)])
def test_model_in_a_wrapper_is_checked(wrap, load):
    """By the loading of torch and of mmengine; messages have the names of the unwrapped network."""
    for filled in (True, False):
        model = wrap(Frozen(super_init='kaiming'))
        hook, runner = CheckFrozenOperatorsHook(), SimpleNamespace(model=model)
        hook.before_run(runner)
        state = moved(TinyModel())
        load(model, state if filled else {'conv.weight': state['conv.weight']})
        if filled:
            hook.before_train(runner)
        else:
            with pytest.raises(ConfigError, match=r'at random \(conv\)\. No'):
                hook.before_train(runner)


@pytest.fixture
def warnings(caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield lambda: [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    logger.removeHandler(caplog.handler)


COC = dict(type='mmkerv.CoCConv')
HRNET = {
    f'stage{i}': dict(
        num_modules=1, num_branches=i, block='BOTTLENECK' if i == 1 else 'BASIC', num_blocks=(1,) * i,
        num_channels=tuple(8 * 2**b for b in range(i)),
    )
    for i in range(1, 5)
}  # fmt: skip
# The number of convolutions larger than 1x1 that the backbone freezes: the stem and stage 1.
BACKBONES = [
    ('mmdet', dict(type='ResNet', depth=18, base_channels=8), 5, 'conv1, layer1.0.conv1, layer1.0.conv2, ...'),
    ('mmdet', dict(type='mmkerv.ResNet', depth=18, base_channels=8), 5, 'conv1, layer1.0.conv1, layer1.0.conv2, ...'),
    ('mmdet', dict(type='ResNet', depth=50, base_channels=8), 4, 'conv1, layer1.0.conv2, layer1.1.conv2, ...'),
    ('mmdet', dict(type='MobileNetV2'), 2, 'conv1.conv, layer1.0.depthwise_conv.conv'),
    ('mmseg', dict(type='ResNetV1c', depth=18), 7, 'stem.0, stem.3, stem.6, ...'),
    ('mmseg', dict(type='mmkerv.ResNetV1c', depth=18), 7, 'stem.0, stem.3, stem.6, ...'),
    ('mmseg', dict(type='HRNet', extra=HRNET), 5, 'conv1, conv2, layer1.0.conv2, ...'),
    ('mmseg', dict(type='mmkerv.HRNet', extra=HRNET), 5, 'conv1, conv2, layer1.0.conv2, ...'),
    ('mmpretrain', dict(type='ResNet', depth=18, base_channels=8, stem_channels=8), 5, 'conv1, layer1.0.conv1, '),
    ('mmpretrain', dict(type='ShuffleNetV2'), 6, 'conv1.conv, layers.0.0.branch1.0.conv, '),
    ('mmpretrain', dict(type='MobileNetV2'), 2, 'conv1.conv, layer1.0.conv.0.conv'),
]


@pytest.mark.parametrize('scope, backbone, count, names', BACKBONES, ids=[f'{s}-{b["type"]}' for s, b, *_ in BACKBONES])
def test_frozen_stages_of_upstream_backbones(warnings, scope, backbone, count, names):
    pytest.importorskip(scope)
    with DefaultScope.overwrite_default_scope(scope):
        models = [
            MODELS.build(dict(frozen_stages=1, conv_cfg={**COC, 'super_init': start}, **backbone))
            for start in ('identity', 'kaiming')
        ]
    for model in models:
        hook, runner = CheckFrozenOperatorsHook(), SimpleNamespace(model=model)
        hook.before_run(runner)
        if model is models[0]:
            hook.before_train(runner)
            line = warnings()[-1]
            assert f'mmkerv: {count} operators are frozen' in line and f'train: {names}' in line
            continue
        with pytest.raises(ConfigError, match=rf'{count} operators are frozen at random \({names}'):
            hook.before_train(runner)
        frozen = [m for m in model.modules() if isinstance(m, CoCConv2d) and not m.weight.requires_grad]
        assert len(frozen) == count and not any(p.requires_grad for m in frozen for p in m.parameters())


@pytest.mark.parametrize('change, identity', [(0, True), (1e-8, True), (1e-4, False), (float('nan'), False)])
def test_identity_is_measured(change, identity):
    operator = CoCConv(3, 8, 3)
    with torch.no_grad():
        operator.super_layers[0].weight += change
    assert is_identity(operator) == identity


def test_prepare_adds_it_to_training_only(tmp_path):
    args = Namespace(config='net.py', work_dir=str(tmp_path), launcher='none')
    for phases, hooks in ((('test',), []), (('train', 'val'), [HOOK]), (('train',), [HOOK])):
        cfg = prepare(Config(dict(custom_hooks=[])), args, phases)
        assert [hook for hook in cfg.custom_hooks if 'Operators' in hook['type']] == hooks
