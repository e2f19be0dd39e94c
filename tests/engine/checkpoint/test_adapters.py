"""Checkpoints of networks with orthogonal adapters: configs, pretrained weights, resuming, averaging, folding."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

pytest.importorskip('mmpretrain')

import mmkerv
from mmkerv.deploy.fold import fold_checkpoint
from mmkerv.deploy.trained_model import build_model
from mmkerv.engine import apply_patches, match_checkpoint
from mmkerv.errors import ArgumentTypeError, CheckpointMismatchError, ConfigError
from mmkerv.models.adapters import apply_adapters
from mmkerv.ops import CoCConv, KervConv
from mmkerv.ops.core.adapter import adapted_layers, adapter_of
from tests.engine.small_networks import COC, SIZE, classifier
from tests.engine.tiny_runner import TinyModel, tiny_runner

HOOKS = [dict(type='mmkerv.CheckFrozenOperatorsHook'), dict(type='mmkerv.CheckpointMatchHook')]
ADAPTERS = dict(kind='boft', block_size=9, factors=1)
SKEW = 'conv.parametrizations.weight.0.skew'


@pytest.fixture(autouse=True)
def installed():
    apply_patches()


def adapted(conv=CoCConv, std: float = 0.0, **options) -> TinyModel:
    """A network with adapters as a config builds it."""
    model = apply_adapters(TinyModel(conv, **options), ADAPTERS)
    if std:
        for parameter in adapter_of(model.conv).parameters():
            torch.nn.init.normal_(parameter, std=std)
    return model


def written(tmp_path, state: dict) -> str:
    torch.save({'meta': {'epoch': 0, 'iter': 0}, 'message_hub': {}, 'state_dict': state}, tmp_path / 'a.pth')
    return str(tmp_path / 'a.pth')


def random_state(model) -> dict:
    return {k: torch.rand(v.shape) + 1 if v.dim() else v for k, v in model.state_dict().items()}


def images() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


CONVS = pytest.mark.parametrize('conv', [torch.nn.Conv2d, CoCConv], ids=['plain', 'CoC'])


@CONVS
@pytest.mark.parametrize('by', ['init_cfg', 'load_from'])
@pytest.mark.parametrize('strict', [False, True], ids=['lenient', 'strict'])
def test_plain_weights_start_the_training_of_adapters(tmp_path, conv, by, strict):
    plain = random_state(TinyModel(torch.nn.Conv2d))
    file, model = written(tmp_path, plain), adapted(conv)
    if by == 'init_cfg':
        model.init_cfg = dict(type='Pretrained', checkpoint=file)
    hooks = [HOOKS[0], dict(HOOKS[1], strict=strict), dict(type='EMAHook')]
    runner = tiny_runner(
        tmp_path / 'run', model, custom_hooks=hooks, **({} if by == 'init_cfg' else {'load_from': file})
    )
    runner.train()
    base = model.conv.parametrizations.weight
    assert torch.equal(base.original, plain['conv.weight']) and torch.equal(model.conv.bias, plain['conv.bias'])
    assert base[0].skew.abs().max() > 0 and base[0].gain.abs().max() > 0
    text = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'operators are frozen' not in text
    saved = torch.load(tmp_path / 'run' / 'epoch_1.pth', weights_only=False)
    assert SKEW in saved['state_dict'] and f'module.{SKEW}' in saved['ema_state_dict'] | {f'module.{SKEW}': 0}


@CONVS
def test_training_adapters_on_random_weights_is_refused(tmp_path, conv):
    with pytest.raises(ConfigError, match=r'1 layers with orthogonal adapters have frozen random weights \(conv\): no'):
        tiny_runner(tmp_path, adapted(conv), custom_hooks=HOOKS).train()


def test_a_trained_network_gets_adapters_in_python(tmp_path):
    model = mmkerv.add_orthogonal_adapters(TinyModel(torch.nn.Conv2d), block_size=9)
    before = copy.deepcopy(model.conv.parametrizations.weight.original)
    model._is_init = True
    tiny_runner(tmp_path, model, custom_hooks=HOOKS).train()
    assert torch.equal(model.conv.parametrizations.weight.original, before)


def test_frozen_adapters_are_named(tmp_path):
    model = apply_adapters(TinyModel(torch.nn.Conv2d), ADAPTERS)
    model.conv.requires_grad_(False)
    model.init_cfg = dict(type='Pretrained', checkpoint=written(tmp_path, TinyModel(torch.nn.Conv2d).state_dict()))
    tiny_runner(tmp_path / 'run', model, custom_hooks=HOOKS).train()
    text = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'the orthogonal adapters of 1 layers are frozen and do not learn: conv' in text


@CONVS
def test_a_resumed_training_is_the_one_without_a_break(tmp_path, conv):
    file = written(tmp_path, random_state(TinyModel(torch.nn.Conv2d)))

    def train(name: str, epochs: int, **kwargs) -> TinyModel:
        model = adapted(conv)
        settings = dict(type='EMAHook', momentum=0.1)
        loop = dict(by_epoch=True, max_epochs=epochs)
        tiny_runner(tmp_path / name, model, custom_hooks=[*HOOKS, settings], train_cfg=loop, **kwargs).train()
        return model

    whole = train('whole', 2, load_from=file)
    train('parts', 1, load_from=file)
    resumed = train('parts', 2, load_from=str(tmp_path / 'parts' / 'epoch_1.pth'), resume=True)
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key
    saved = [torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False) for name in ('whole', 'parts')]
    for key, value in saved[0]['ema_state_dict'].items():
        assert torch.equal(saved[1]['ema_state_dict'][key], value), key


@CONVS
def test_the_tools_match_accepts_its_own_and_plain_weights(conv):
    model = adapted(conv)
    own, plain = (
        match_checkpoint(model, adapted(conv, 0.3).state_dict()),
        match_checkpoint(model, TinyModel(torch.nn.Conv2d).state_dict()),
    )
    assert not any(own[1:])
    assert (
        not any(plain[1:4]) and SKEW in plain.operator_only and 'conv.parametrizations.weight.original' in plain.loaded
    )


def test_weights_with_adapters_are_refused_without_them(tmp_path):
    state = adapted(torch.nn.Conv2d, 0.3).state_dict()
    message = (
        r"It was trained with orthogonal adapters: give them to the network, dict\(type='mmkerv\.Converted', "
        r"model=dict\(\.\.\.\), adapters=dict\(kind='boft', block_size=9, factors=1\)\), or fold the checkpoint first"
    )
    for hook in (dict(HOOKS[1]), dict(HOOKS[1], strict=False)):
        model = TinyModel(torch.nn.Conv2d)
        with pytest.raises(CheckpointMismatchError, match=message):
            tiny_runner(tmp_path / 'run', model, custom_hooks=[hook], load_from=written(tmp_path, state)).train()
    model = TinyModel(torch.nn.Conv2d)
    model.init_cfg = dict(type='Pretrained', checkpoint=written(tmp_path, state))
    with pytest.raises(CheckpointMismatchError, match='It was trained with orthogonal adapters'):
        model.init_weights()


def network(conv_cfg: dict | None, **adapters) -> Config:
    cfg = classifier()
    inner = dict(type='mmkerv.ResNet', depth=18, base_channels=8, norm_eval=False, conv_cfg=conv_cfg)
    if conv_cfg is None:
        inner = dict(type='mmpretrain.ResNet', depth=18, base_channels=8)
    cfg.model.backbone = dict(type='mmkerv.Converted', backbone=inner, adapters=dict(dict(block_size=8), **adapters))
    return cfg


NETWORKS = {
    'plain': (None, dict(kind='oft')),
    'all frozen': (None, dict(kind='boft', freeze='all', where=dict(stages=(3, 4), stem=False))),
    'CoC': (COC, dict(kind='oft')),
    'kept operators': (dict(type='mmkerv.KervConv', kernel='sigmoid'), dict(kind='boft', block_size=4)),
}


@pytest.mark.parametrize('name', NETWORKS)
def test_a_network_of_a_config_trains_saves_and_folds(tmp_path, name):
    conv_cfg, adapters = NETWORKS[name]
    cfg = network(conv_cfg, **adapters)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    assert model.head.fc.weight.requires_grad
    assert model.backbone.bn1.weight.requires_grad == (adapters.get('freeze') != 'all')
    layers = [layer for _, layer, _ in adapted_layers(model)]
    assert len(layers) == (20 if 'where' not in adapters else 10)
    for layer in layers:
        for parameter in adapter_of(layer).parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    model.train()
    for _ in range(3):
        with torch.no_grad():
            model.extract_feat(torch.randn(4, 3, *SIZE))
    torch.save({'meta': {}, 'state_dict': model.state_dict()}, tmp_path / 'epoch_1.pth')
    result = fold_checkpoint(cfg, tmp_path / 'epoch_1.pth', tmp_path / 'deploy.pth', shape=SIZE)
    kept = conv_cfg == NETWORKS['kept operators'][0]
    assert result.error < 1e-4
    assert kept or {name for name, _, _ in adapted_layers(model)} <= set(result.report.replaced)
    deployed = Config.fromfile(tmp_path / 'deploy.py')
    assert 'adapters' not in deployed.pretty_text
    if not kept:
        assert 'mmkerv' not in deployed.pretty_text
    folded = build_model(deployed, torch.load(tmp_path / 'deploy.pth')['state_dict'], 'deploy.pth')
    x = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        found, wanted = folded.extract_feat(x)[0], model.eval().extract_feat(x)[0]
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-4


def test_other_layers_are_initialised_as_without_adapters():
    plain, cfg = classifier(), network(None, where=dict(stages=(4,), stem=False))
    plain.model.backbone = dict(type='mmpretrain.ResNet', depth=18, base_channels=8)
    init_default_scope('mmpretrain')
    states = []
    for each in (plain, cfg):
        torch.manual_seed(0)
        model = MODELS.build(each.model)
        model.init_weights()
        states.append(model.state_dict())
    kept = [key for key in states[1] if key in states[0]]
    assert len(kept) > 100 and all(torch.equal(states[0][key], states[1][key]) for key in kept)


@pytest.mark.parametrize(
    ('adapters', 'message'),
    [('oft', "adapters must be a dict with some of where, kind.*got 'oft'"), (dict(blocks=2), 'blocks.*block_size')],
    ids=['no dict', 'an unknown key'],
)
def test_bad_adapters_of_a_config_are_refused(adapters, message):
    with pytest.raises(ArgumentTypeError, match=message):
        apply_adapters(TinyModel(torch.nn.Conv2d), adapters)


def test_a_kervolution_keeps_its_kind():
    assert adapted(KervConv, 0.3)(images()).shape == (2,)
