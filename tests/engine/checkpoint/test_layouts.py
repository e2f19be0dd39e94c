"""Checkpoints as other trainers write them: every road loads what they plainly are, or names what is in the way."""

import argparse

import pytest
import torch
from mmengine.model import BaseModule
from torch import nn

from mmkerv.engine import apply_patches, patched, safe_load
from mmkerv.engine.checkpoint.layouts import fitted_names, plain_layout, weights_of
from mmkerv.engine.checkpoint.publish import strip_checkpoint
from mmkerv.errors import CheckpointMismatchError, ConfigError, UnsafeCheckpointError
from tests.engine.tiny_runner import Predictions, RandomImages, TinyModel, tiny_runner

EMA = dict(type='EMAHook', momentum=0.1)
LAYOUT = dict(type='mmkerv.CheckpointLayoutHook')
MATCH = dict(type='mmkerv.CheckpointMatchHook', strict=True)


def trained_model() -> TinyModel:
    """A network whose weights and statistics differ from those of a new one."""
    model = TinyModel()
    torch.manual_seed(5)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return model


def prefixed(prefix: str, **more) -> dict:
    return {**{prefix + key: value for key, value in trained_model().state_dict().items()}, **more}


def scores() -> list[float]:
    return [float(y) for y in trained_model().eval()(RandomImages().images)]


# Name -> content of the file. All are plainly the weights of TinyModel.
PLAIN = {
    'runner': lambda: {'meta': {}, 'state_dict': prefixed('')},
    'bare': lambda: prefixed(''),
    'data parallel': lambda: {'state_dict': prefixed('module.')},
    'data parallel twice': lambda: prefixed('module.module.'),
    'compiled': lambda: {'state_dict': prefixed('_orig_mod.')},
    'compiled inside': lambda: {key.replace('conv.', 'conv._orig_mod.'): value for key, value in prefixed('').items()},
    'compiled, then parallel': lambda: prefixed('module._orig_mod.'),
    'fully sharded': lambda: prefixed('_fsdp_wrapped_module.'),
    'model': lambda: {'model': prefixed(''), 'epoch': 3, 'optimizer': {'state': {}, 'param_groups': []}},
    'model with its command line': lambda: {'model': prefixed('module.'), 'args': argparse.Namespace(lr=0.1, name='a')},
    'model_state_dict': lambda: {'model_state_dict': prefixed('')},
    'averaged alone': lambda: prefixed('module.', steps=torch.tensor(3)),
    'averaged entry alone': lambda: {'ema_state_dict': prefixed('module.', steps=torch.tensor(3))},
    'averaged by torch': lambda: prefixed('module.', n_averaged=torch.tensor(3)),
    'Lightning': lambda: {'pytorch-lightning_version': '2.0', 'epoch': 1, 'state_dict': prefixed('model.')},
    'one prefix': lambda: prefixed('student.net.'),
}


def save(content: dict, folder) -> str:
    file = folder / 'other.pth'
    torch.save(content, file)
    return str(file)


def equal_weights(model: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize('name', PLAIN)
def test_weights_are_found_under_the_names_of_the_network(name, tmp_path):
    loaded = safe_load(save(PLAIN[name](), tmp_path))
    weights = fitted_names(weights_of(loaded, 'a.pth'), TinyModel().state_dict(), 'a.pth')
    model = TinyModel()
    model.load_state_dict(weights)
    assert equal_weights(model, trained_model())


def evaluated(folder, file: str, hooks: list, **changes) -> list[float]:
    """Test the weights of a file, as the tool does: mmengine averages in tests only."""
    metric = Predictions()
    loader = dict(dataset=RandomImages(), batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'),
                  sampler=dict(type='DefaultSampler', shuffle=False))  # fmt: skip
    with patched():
        runner = tiny_runner(
            folder, test_dataloader=loader, test_cfg={}, test_evaluator=[metric], load_from=file, custom_hooks=hooks,
            **changes,
        )  # fmt: skip
        runner.test()
    return metric.seen[0]


@pytest.mark.parametrize('hooks', [[], [EMA]], ids=['', 'averaged'])
@pytest.mark.parametrize('name', PLAIN)
def test_a_test_scores_the_weights_of_the_file(name, hooks, tmp_path):
    """With EMAHook, the network that is scored is the averaged one, which the hook loads itself."""
    found = evaluated(tmp_path / 'run', save(PLAIN[name](), tmp_path), [LAYOUT, MATCH, *hooks])
    assert found == pytest.approx(scores(), rel=1e-5)


@pytest.mark.parametrize('prefix', ['', 'module.', 'module.module.'])
def test_training_starts_from_the_weights_of_the_file_the_averaged_network_too(prefix, tmp_path):
    with patched():
        runner = tiny_runner(
            tmp_path / 'run',
            load_from=save({'state_dict': prefixed(prefix)}, tmp_path),
            custom_hooks=[LAYOUT, dict(MATCH, strict=False), EMA],
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        )
        runner.train()
    checkpoint = torch.load(tmp_path / 'run' / 'epoch_1.pth', weights_only=False)
    for entry, start in (('state_dict', ''), ('ema_state_dict', 'module.')):
        for name, value in trained_model().named_parameters():
            torch.testing.assert_close(checkpoint[entry][start + name], value.detach())


@pytest.mark.parametrize('prefix', ['module.', ''])
def test_averaged_network_is_resumed_or_refused(prefix, tmp_path):
    def run(folder, **changes):
        runner = tiny_runner(tmp_path / folder, custom_hooks=[LAYOUT, MATCH, EMA], **changes)
        runner.train()
        return runner

    first = run('first')
    checkpoint = torch.load(tmp_path / 'first' / 'epoch_1.pth', weights_only=False)
    checkpoint['state_dict'] = {prefix + key: value for key, value in checkpoint['state_dict'].items()}
    longer = dict(load_from=save(checkpoint, tmp_path), resume=True)
    second = run('second', **longer)
    assert equal_weights(second.model, first.model)
    averaged = checkpoint['ema_state_dict']
    averaged['module.other.weight'] = averaged.pop('module.conv.weight')
    longer['load_from'] = save(checkpoint, tmp_path)
    with pytest.raises(CheckpointMismatchError, match=r'averaged weights of another network.*other\.weight.*EMAHook'):
        run('third', **longer)
    averaged.pop('module.other.weight')
    longer['load_from'] = save(checkpoint, tmp_path)
    with pytest.raises(CheckpointMismatchError, match=r'\(ema_state_dict\).*1 missing \(conv\.weight\)'):
        run('fourth', **longer)


def test_averaged_network_is_checked_without_the_layout_hook_too(tmp_path):
    with pytest.raises(CheckpointMismatchError, match=r"begin with 'module\.'.*mmkerv\.CheckpointLayoutHook"):
        runner = tiny_runner(
            tmp_path / 'run', load_from=save({'state_dict': prefixed('module.')}, tmp_path), custom_hooks=[MATCH, EMA]
        )
        runner.train()


@pytest.mark.parametrize('name', sorted(set(PLAIN) - {'runner'}))
def test_foreign_layouts_cannot_be_resumed(name, tmp_path):
    runner = tiny_runner(
        tmp_path / 'run', load_from=save(PLAIN[name](), tmp_path), resume=True, custom_hooks=[LAYOUT, MATCH]
    )
    with pytest.raises(CheckpointMismatchError, match=r'cannot be resumed: it holds no meta.*load_from='):
        runner.train()


class Detector(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.backbone = TinyModel()
        self.head = nn.Linear(8, 2)


class Backbone(BaseModule):
    def __init__(self, **init_cfg):
        super().__init__(dict(type='Pretrained', **init_cfg))
        self.conv, self.norm = TinyModel().conv, TinyModel().norm


@pytest.mark.parametrize('name', [name for name in PLAIN if name not in ('Lightning', 'one prefix')])
@pytest.mark.parametrize('prefix', [None, 'backbone.'])
def test_a_pretrained_backbone_starts_from_the_weights_of_the_file(name, prefix, tmp_path):
    content = PLAIN[name]()
    if prefix:
        weights = weights_of(content, 'a.pth')
        content = {'model': {f'module.backbone.{key}': value for key, value in weights.items()}}
    with patched():
        net = Backbone(checkpoint=save(content, tmp_path), **({'prefix': prefix} if prefix else {}))
        net.init_weights()
    assert equal_weights(net, trained_model())


@pytest.mark.parametrize('name, prefix', [('Lightning', 'model.'), ('one prefix', 'student.net.')])
def test_a_prefix_that_a_pretrained_backbone_needs_is_named(name, prefix, tmp_path):
    file = save(PLAIN[name](), tmp_path)
    with patched():
        with pytest.raises(CheckpointMismatchError, match=rf"begin with '{prefix}': add prefix='{prefix}' to init_cfg"):
            Backbone(checkpoint=file).init_weights()
        net = Backbone(checkpoint=file, prefix=prefix)
        net.init_weights()
    assert equal_weights(net, trained_model())


def test_a_bare_backbone_goes_into_the_backbone():
    own = Detector().state_dict()
    assert set(fitted_names(prefixed(''), own, 'a.pth')) == {key for key in own if key.startswith('backbone.')}


def test_nothing_is_renamed_that_fits_or_fits_nowhere():
    own = {'model.a', 'head.b'}
    for weights in ({'model.a': 1, 'model.c': 2}, {'x.a': 1}, {'x.model.a': 1, 'y.c': 1}, {}):
        assert fitted_names(weights, own, 'a.pth') is weights
    weights = {'module.a': torch.ones(1), 'b': torch.ones(1)}
    assert plain_layout(weights) is weights
    checkpoint = {'state_dict': {'a': torch.ones(1)}, 'model': {'b': torch.ones(1)}}
    assert plain_layout(checkpoint) is checkpoint
    # A parameter called like a container, and a container of other things.
    weights = {'model': torch.ones(1)}
    assert plain_layout(weights) is weights and plain_layout([1]) == [1]
    assert weights_of({'net': {'lr': 0.1}, 'w': torch.ones(1)}, 'a.pth').keys() == {'net', 'w'}


def test_versions_of_modules_follow_their_names():
    state = nn.Sequential(nn.BatchNorm2d(2)).state_dict(prefix='module.')
    renamed = weights_of(state, 'a.pth')
    assert renamed._metadata['0'] == {'version': 2} and next(iter(renamed)) == '0.weight'


@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize(
    'content, message',
    [
        (prefixed('student.') | prefixed('teacher.'), r"keys begin with 'student\.'.*removeprefix\('student\.'\)"),
        ({'weights': prefixed('')}, r"entries are weights\. Save.*checkpoint\['weights'\]"),
    ],
    ids=['two networks', 'unknown entry'],
)
def test_what_is_not_plain_is_named(content, message, strict, tmp_path):
    with pytest.raises(CheckpointMismatchError, match=message) as caught:
        evaluated(tmp_path / 'run', save(content, tmp_path), [LAYOUT, dict(MATCH, strict=strict)])
    assert 'trust' not in str(caught.value)


def test_a_backbone_is_no_network(tmp_path):
    class Whole(TinyModel):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = TinyModel(), nn.Linear(2, 2)
            del self.conv, self.norm

    with pytest.raises(CheckpointMismatchError, match=r'weights of the backbone alone, not of head: .*init_cfg'):
        evaluated(tmp_path / 'run', save(prefixed(''), tmp_path), [LAYOUT, MATCH], model=Whole())


def test_safetensors_are_read_by_every_road(tmp_path):
    safetensors = pytest.importorskip('safetensors.torch')
    file = tmp_path / 'model.safetensors'
    safetensors.save_file(prefixed(''), file)
    assert safe_load(file).keys() == prefixed('').keys()
    with file.open('rb') as stream:
        assert torch.equal(safe_load(stream, 'cpu')['conv.weight'], prefixed('')['conv.weight'])
    assert safe_load(file, 'meta')['conv.weight'].device.type == 'meta'
    assert safe_load(file, lambda storage, location: storage)['conv.weight'].device.type == 'cpu'
    unnamed = tmp_path / 'pytorch_model.bin'
    unnamed.write_bytes(file.read_bytes())
    assert safe_load(unnamed).keys() == prefixed('').keys()
    apply_patches()
    net = Backbone(checkpoint=str(file))
    net.init_weights()
    assert equal_weights(net, trained_model())
    assert evaluated(tmp_path / 'run', str(file), [LAYOUT, MATCH, EMA]) == pytest.approx(scores(), rel=1e-5)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UnsafeCheckpointError, match=r'model\.safetensors.*damaged') as caught:
        safe_load(file)
    assert 'trust' not in str(caught.value)


def test_publishing_takes_other_layouts():
    for name in ('model', 'compiled, then parallel'):
        published = strip_checkpoint(PLAIN[name](), ['state_dict'])
        assert set(published['state_dict']) == set(prefixed(''))
        with pytest.raises(ConfigError, match=r'the checkpoint has no meta; it has (epoch|state_dict)'):
            strip_checkpoint(PLAIN[name]())


def test_a_command_line_cannot_hide_a_method(tmp_path):
    space = argparse.Namespace(lr=0.1)
    space.__dict__['__setstate__'] = 1
    with pytest.raises(UnsafeCheckpointError, match='state of Namespace'):
        safe_load(save({'args': space}, tmp_path))
