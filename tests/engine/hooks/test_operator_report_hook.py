"""Lines at the start of a run: what became of the convolutions, and how the operators start."""

import logging

import pytest
import torch
from torch import nn

from mmkerv.engine import OperatorReportHook
from mmkerv.ops import CKConv, CoCConv, LowRankConv
from tests.engine.tiny_runner import TinyModel, tiny_runner


@pytest.fixture
def lines(caplog):
    """Run and return the lines of the hook with their levels."""

    def run(runner, phase='train'):
        runner.logger.addHandler(caplog.handler)
        caplog.clear()
        getattr(runner, phase)()
        return [
            (record.levelno, record.getMessage().removeprefix('mmkerv: '))
            for record in caplog.records
            if record.getMessage().startswith('mmkerv: ')
        ]

    return run


def runner(tmp_path, model, **kwargs):
    return tiny_runner(tmp_path, model, custom_hooks=[OperatorReportHook()], **kwargs)


@pytest.mark.parametrize(
    ('conv', 'options', 'line', 'start'),
    [
        (CoCConv, {}, '1 of 1 convolutions -> CoCConv (3x3: 1); kept none', 'CoCConv starts as the plain convolution'),
        (
            CoCConv,
            {'super_init': 'kaiming'},
            '1 of 1 convolutions -> CoCConv (3x3: 1); kept none',
            "CoCConv starts with the plain layer's weight, but not as the plain convolution",
        ),
        (CKConv, {}, '1 of 1 convolutions -> CKConv (3x3: 1); kept none', 'CKConv starts with random kernels'),
        (nn.Conv2d, {}, 'no operators; 1 plain convolution (3x3: 1)', None),
    ],
    ids=['identity', 'weight', 'random', 'plain'],
)
def test_start_of_a_training(tmp_path, lines, conv, options, line, start):
    found = lines(runner(tmp_path, TinyModel(conv, **options)))
    assert found == [(logging.INFO, text) for text in (line, start) if text]


def test_start_of_a_test(tmp_path, lines):
    other = runner(tmp_path, TinyModel())
    test = runner(
        tmp_path,
        TinyModel(),
        test_dataloader=other._val_dataloader,
        test_cfg={},
        test_evaluator=[other._val_evaluator[0]],
    )
    assert lines(test, 'test') == [(logging.INFO, '1 of 1 convolutions -> CoCConv (3x3: 1); kept none')]


class Parts(TinyModel):
    """The operator and a convolution in one part."""

    def __init__(self, conv, **options):
        super().__init__(conv, **options)
        self.conv = nn.Sequential(self.conv, nn.Conv2d(8, 8, 3, padding=1))


@pytest.fixture
def checkpoint(tmp_path):
    def write(model, *without):
        state = {key: value for key, value in model.state_dict().items() if not key.startswith(without or ('-',))}
        torch.save({'state_dict': state, 'meta': {}}, tmp_path / 'start.pth')
        return str(tmp_path / 'start.pth')

    return write


def test_random_operators_among_loaded_weights_are_warned_of(tmp_path, lines, checkpoint):
    file = checkpoint(Parts(nn.Conv2d), 'conv.0')
    found = lines(runner(tmp_path, Parts(CKConv), load_from=file))
    (warning,) = [text for level, text in found if level == logging.WARNING]
    assert warning.startswith('1 CKConv such as conv.0 start with random kernels among pretrained weights of conv')


@pytest.mark.parametrize(
    ('of', 'conv'),
    [(nn.Conv2d, CoCConv), (CKConv, CKConv), (nn.Conv2d, LowRankConv), (None, CKConv)],
    ids=['weight', 'loaded', 'decomposed', 'no checkpoint'],
)
def test_nothing_is_random(tmp_path, lines, checkpoint, of, conv):
    found = lines(runner(tmp_path, Parts(conv), load_from=of and checkpoint(Parts(of))))
    assert not [text for level, text in found if level == logging.WARNING], found


def test_operators_of_the_checkpoint_are_told_from_fresh_ones(tmp_path, lines, checkpoint):
    found = lines(runner(tmp_path, Parts(CoCConv), load_from=checkpoint(Parts(CoCConv))))
    assert found[1][1] == '1 CoCConv start from the checkpoint'


def test_nothing_is_watched_after_the_start(tmp_path):
    made = runner(tmp_path, TinyModel())
    made.train()
    assert not made.model.conv._load_state_dict_pre_hooks
