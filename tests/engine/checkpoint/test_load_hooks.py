import copy
import functools
from collections import OrderedDict

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmkerv.engine import match_checkpoint, require_match, require_pretrained
from mmkerv.engine.checkpoint.load_hooks import names_after_hooks
from mmkerv.ops import CoCConv2d
from tests.engine.tiny_runner import tiny_runner


def built(scope: str, **config) -> nn.Module:
    pytest.importorskip(scope)
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(config)


def retinanet() -> dict:
    return dict(
        type='RetinaNet',
        backbone=dict(type='ResNet', depth=18, base_channels=8, out_indices=(2, 3)),
        neck=dict(type='FPN', in_channels=[32, 64], out_channels=8, num_outs=2),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=2,
            in_channels=8,
            feat_channels=8,
            stacked_convs=1,
            anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[1.0], strides=[16, 32]),
        ),
    )


SWIN = dict(type='SwinTransformer', arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 1]), img_size=56)


def former_swin() -> tuple[nn.Module, dict, dict]:
    """Return a Swin transformer, its weights in the layout before version 2, and the same weights by today's names."""
    model = built('mmpretrain', **SWIN, out_indices=(1,))
    own = model.state_dict()
    former = OrderedDict((key.replace('norm1.', 'norm.', key.startswith('norm1.')), own[key] + 1) for key in own)
    former['stages.1.blocks.0.attn.attn_mask'] = torch.ones(1)
    return model, former, {key: value + 1 for key, value in own.items()}


def bare(state: dict) -> dict:
    """Return a state dict without the versions of the modules, as older ones are."""
    return OrderedDict(state.items())


def test_a_detector_is_loaded_into_teacher_and_student(tmp_path):
    student = dict(type='SemiBaseDetector', detector=retinanet(), semi_train_cfg=dict(freeze_teacher=False))
    model, detector = built('mmdet', **student), built('mmdet', **retinanet())
    state = detector.state_dict()
    match = require_match(model, state, 'supervised.pth')
    assert sorted(match.loaded) == sorted(model.state_dict())
    torch.save({'state_dict': state, 'meta': {}}, tmp_path / 'supervised.pth')
    runner = tiny_runner(tmp_path, model=model, load_from=str(tmp_path / 'supervised.pth'))
    runner.register_hook(dict(type='mmkerv.CheckpointMatchHook'))
    runner.load_or_resume()
    for part in (runner.model.teacher, runner.model.student):
        assert all(torch.equal(value, state[key]) for key, value in part.state_dict().items())


def test_a_former_layout_of_swin_matches():
    model, former, today = former_swin()
    before, keys = copy.deepcopy(model.state_dict()), list(former)
    found = names_after_hooks(model, former)
    assert {key: value.tolist() for key, value in found.items()} == {k: v.tolist() for k, v in today.items()}
    assert sorted(require_match(model, former, 'a.pth').loaded) == sorted(today)
    assert list(former) == keys
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.load_state_dict(former)
    assert all(torch.equal(value, today[key]) for key, value in model.state_dict().items())


def test_versions_of_modules_are_heeded():
    """Of a version that it need not read, Swin renames nothing."""
    model, former, _ = former_swin()
    former._metadata = OrderedDict({'': {'version': 3}})
    unexpected = ['norm.weight', 'norm.bias', 'stages.1.blocks.0.attn.attn_mask']
    assert match_checkpoint(model, former).unexpected == unexpected
    assert former._metadata == {'': {'version': 3}}


def test_a_resized_table_is_of_the_shape_it_is_loaded_in():
    model = built('mmpretrain', type='VisionTransformer', arch='deit-t', img_size=64, patch_size=16)
    larger = built('mmpretrain', type='VisionTransformer', arch='deit-t', img_size=96, patch_size=16)
    match = require_match(model, bare(larger.state_dict()), 'a.pth')
    assert sorted(match.loaded) == sorted(model.state_dict())


class Branch(nn.Module):
    """Layer that reads and writes itself while it reads former names, in each way that a hook has."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(2))
        self.conv = CoCConv2d(2, 2, 3)
        self.register_buffer('count', torch.zeros(1))
        self._register_load_state_dict_pre_hook(self.bound)
        self._register_load_state_dict_pre_hook(functools.partial(self.static, 'b'))
        self._register_load_state_dict_pre_hook(self.given, with_module=True)

    def bound(self, state_dict, prefix, *_):
        self.count.add_(1)
        state_dict[f'{prefix}b'] = state_dict.pop(f'{prefix}a')

    @staticmethod
    def static(name, state_dict, prefix, *_):
        state_dict[f'{prefix}c'] = state_dict.pop(prefix + name)

    @staticmethod
    def given(module, state_dict, prefix, *_):
        module.scale.data.fill_(5)
        state_dict[f'{prefix}d'] = state_dict.pop(f'{prefix}c')

    def _load_from_state_dict(self, state_dict, prefix, *args):
        self.count = torch.full((1,), 7.0)
        super()._load_from_state_dict(state_dict, prefix, *args)
        state_dict[f'{prefix}scale'] = state_dict.pop(f'{prefix}d')

    def set_extra_state(self, state):
        raise RuntimeError('a dry pass must not set it')

    def get_extra_state(self):
        return torch.ones(1)


def test_hooks_of_every_kind_run_in_order_and_on_copies():
    model = nn.Sequential(nn.ReLU(), Branch())
    before = copy.deepcopy(model.state_dict())
    one = torch.ones(1)
    state = {'1.a': torch.ones(2), '1.conv.weight': torch.ones(2, 2, 3, 3), '1._extra_state': one, '7.x': one}
    found = names_after_hooks(model, state)
    assert set(found) == {'1.scale', '1.conv.weight', '1._extra_state', '7.x'}
    assert list(state) == ['1.a', '1.conv.weight', '1._extra_state', '7.x']
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    # The operator's own parameters are not taken for the checkpoint's.
    assert any('super_layers' in key for key in match_checkpoint(model, state).operator_only)


def test_what_a_hook_cannot_read_is_reported_as_it_is():
    model = nn.Sequential(Branch())
    assert match_checkpoint(model, {'0.c': torch.ones(1)}).unexpected == ['0.c']
    with pytest.raises(KeyError, match=r'0\.a'):
        model.load_state_dict({'0.c': torch.ones(1)})


def test_names_that_the_hooks_have_given_are_not_renamed_again():
    """Observed weights are by the names after the hooks; one that adds a prefix would add another."""

    class Prefixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Linear(2, 2)
            self._register_load_state_dict_pre_hook(self.add)

        @staticmethod
        def add(state_dict, prefix, *_):
            for key in list(state_dict):
                state_dict[f'{prefix}model.{key.removeprefix(prefix)}'] = state_dict.pop(key)

    assert len(require_pretrained(Prefixing(), Prefixing().state_dict(), 'a.pth').loaded) == 2
    assert len(require_match(Prefixing(), nn.Linear(2, 2).state_dict(), 'a.pth').loaded) == 2
