"""Parameters that layers share, in the optimizer, in an averaged model and in a run from a config."""

import copy

import pytest
import torch

pytest.importorskip('mmengine')

from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from mmkerv.deploy.config import deploy_config
from mmkerv.engine import patched
from mmkerv.errors import ArgumentError, ArgumentTypeError
from mmkerv.registry import MODELS as OURS
from tests.engine.tiny_runner import tiny_runner
from tests.models.test_sharing import FIRST, SECOND, Staged, groups

DCLS = dict(type='DCLSConv', kernel_extent=5)


class Network(BaseModel):
    """The staged network with a loss."""

    def __init__(self):
        super().__init__()
        self.backbone = Staged()

    def forward(self, inputs, target=None, mode='tensor'):
        outputs = self.backbone(inputs).mean(dim=(1, 2, 3))
        return {'loss': (outputs - target).square().mean()} if mode == 'loss' else list(outputs)


@pytest.fixture(autouse=True)
def registered():
    OURS.register_module(name='SharingNetwork', module=Network, force=True)
    yield
    OURS._module_dict.pop('SharingNetwork')


def build(share, **changes):
    network = dict(type='mmkerv.SharingNetwork')
    cfg = dict(type='mmkerv.Converted', model=network, conv_cfg=DCLS, where=dict(stem=False), share=share, **changes)
    return MODELS.build(cfg)


POSITIONS = dict(names='positions')


@pytest.mark.parametrize('constructor', ['mmkerv.OperatorRulesConstructor', 'DefaultOptimWrapperConstructor'])
def test_the_optimizer_has_each_parameter_once(constructor):
    model = build([POSITIONS, dict(names=('weight', 'bias'), where=dict(stages=(1,)))])
    rules = dict(norm_decay_mult=0.0)
    if not constructor.startswith('mmkerv'):
        rules['bypass_duplicate'] = True
    sgd = dict(type='SGD', lr=0.1, weight_decay=0.01)
    wrapper = build_optim_wrapper(model, dict(constructor=constructor, optimizer=sgd, paramwise_cfg=rules))
    # mmengine adds a scalar, which keeps the base settings.
    everything = [p for group in wrapper.param_groups for p in group['params'] if p.dim()]
    assert len(everything) == len({id(p) for p in everything}) == len(list(model.parameters()))
    if constructor.startswith('mmkerv'):
        positions = {id(p) for name, p in model.named_parameters() if 'positions' in name}
        chosen = [group for group in wrapper.param_groups if id(group['params'][0]) in positions]
        # 5 times the learning rate, no decay; the two groups of layers, the first layer of stage 2, and the head.
        assert [(g['lr'], g['weight_decay']) for g in chosen] == [(0.5, 0.0)] * 5


@pytest.mark.parametrize('update_buffers', [False, True])
def test_an_averaged_model_moves_once_a_step(update_buffers):
    model = build(POSITIONS)
    averaged = ExponentialMovingAverage(model, momentum=0.1, update_buffers=update_buffers)
    assert groups(averaged.module.backbone, 'positions') == [FIRST, SECOND]
    start = model.backbone.layer1[0].conv1.positions.detach().clone()
    with patched():
        for _ in range(3):
            averaged.update_parameters(model)
            with torch.no_grad():
                model.backbone.layer1[0].conv1.positions.copy_(start + 1)
    # The first update copies; the two others move by a tenth of the distance.
    expected = start + 1 - 0.9**2
    assert torch.allclose(averaged.module.backbone.layer1[2].conv2.positions, expected, atol=1e-6)
    assert groups(averaged.module.backbone, 'positions') == [FIRST, SECOND]


def test_a_run_from_a_config_trains_saves_and_resumes(tmp_path):
    hooks = [dict(type='EMAHook', ema_type='ExponentialMovingAverage')]
    optim = dict(
        constructor='mmkerv.OperatorRulesConstructor',
        optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4),
        paramwise_cfg=dict(norm_decay_mult=0.0),
    )
    settings = dict(custom_hooks=hooks, optim_wrapper=optim)
    runner = tiny_runner(tmp_path, build(POSITIONS), **settings)
    runner.train()
    start = build(POSITIONS).backbone.layer1[0].conv1.positions
    assert groups(runner.model.backbone, 'positions') == [FIRST, SECOND]
    assert not torch.equal(runner.model.backbone.layer1[1].conv2.positions, start)
    longer = dict(by_epoch=True, max_epochs=2, val_interval=1)
    again = tiny_runner(tmp_path, build(POSITIONS), train_cfg=longer, resume=True, **settings)
    again.train()
    assert groups(again.model.backbone, 'positions') == [FIRST, SECOND] and again.epoch == 2


def test_sharing_without_an_operator_and_in_the_deploy_config():
    from mmengine.config import Config

    network = dict(type='mmkerv.SharingNetwork')
    cfg = dict(type='mmkerv.Converted', model=network, share=dict(names=('weight', 'bias')))
    assert groups(MODELS.build(copy.deepcopy(cfg)).backbone) == [FIRST, SECOND]
    assert deploy_config(Config(dict(default_scope='mmdet', model=cfg))).model.to_dict() == network


@pytest.mark.parametrize(
    ('share', 'kind', 'message'),
    [
        ('positions', ArgumentTypeError, "share must be a dict with 'names'"),
        (dict(where=None), ArgumentTypeError, "share must be a dict with 'names'"),
        (dict(names='positions', wher={}), ArgumentTypeError, "share has no .*'wher'.*where|wher"),
        (dict(names='nothing'), ArgumentError, "names=.'nothing',.: no selected layer"),
    ],
    ids=str,
)
def test_a_wrong_share_is_named(share, kind, message):
    with pytest.raises(kind, match=message):
        build(share)
