"""The log in the terminal: what is left out, counted and thinned, and the bar where the terminal is one."""

import io
import logging
import os
import sys

import pytest
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from mmkerv.engine import build_runner
from mmkerv.engine.console import short_log
from mmkerv.engine.console.short_log import TerminalHandler, shorten, with_short_log
from tests.engine.tiny_runner import tiny_runner


class Terminal(io.StringIO):
    """A terminal that does not know its size, as in some containers."""

    def __init__(self):
        super().__init__()
        self.ends = os.openpty()

    def isatty(self):
        return True

    def fileno(self):
        return self.ends[1]

    def close(self):
        if not self.closed:
            for end in self.ends:
                os.close(end)
        super().close()


@pytest.fixture
def now(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(short_log.time, 'monotonic', lambda: clock[0])
    return clock


@pytest.fixture
def say():
    """Log messages through a short log; return what the terminal got since the last call."""
    stream = io.StringIO()
    handler = TerminalHandler.in_place_of(logging.StreamHandler(stream))
    handler.setLevel(logging.INFO)

    def say(*messages, level=logging.INFO):
        start = stream.tell()
        for message in messages:
            handler.emit(logging.makeLogRecord({'name': 'mmengine', 'levelno': level, 'msg': message}))
        return [line.partition(' - INFO - ')[2] or line for line in stream.getvalue()[start:].splitlines()]

    return say


def test_what_is_a_file_anyway_is_left_out(say):
    assert (
        say('\n----\nSystem environment:\n  Python', 'Config:\na = 1', 'Hooks will be executed in the following order:')
        == []
    )
    assert say('Exp name: a_2026', 'mmkerv: 1 of 2 convolutions', 'Configuration') == [
        'mmkerv: 1 of 2 convolutions',
        'Configuration',
    ]


def test_messages_on_single_parameters_are_one_line(say):
    skipped = [f'backbone.conv{i}.weight is skipped since its requires_grad=False' for i in range(5)]
    options = [f'paramwise_options -- backbone.conv{i}.weight:lr=0.1' for i in range(2)]
    assert say(skipped[0], options[0], *skipped[1:], options[1]) == []
    assert say('Checkpoints will be saved') == [
        '5 parameters are not trained: their requires_grad is False',
        '2 settings of single parameters by paramwise_cfg',
        'Checkpoints will be saved',
    ]
    assert say('next') == ['next']


def test_progress_is_shown_every_few_seconds_and_at_the_end_of_an_epoch(say, now):
    def train(i, n=100):
        return f'Epoch(train)  [1][{i:3}/{n}]  lr: 1.0e-05  eta: 0:00:00  loss: 1.0'

    assert say(train(1)) and not say(train(2))
    now[0] = 9.9
    assert not say(train(3))
    now[0] = 10.0
    assert say(train(4)) == [train(4)] and not say(train(5)) and say(train(100))
    evaluation, metrics = 'Epoch(val) [1][20/20]  eta: 0:00:00  time: 0.1', 'Epoch(val) [1][20/20]  mAP: 0.5  time: 0.1'
    assert say(evaluation, metrics) == [metrics]
    iterations = 'Iter(train) [ 10/200]  lr: 1.0e-05  eta: 0:00:00  loss: 1.0'
    assert not say(iterations)
    now[0] = 30.0
    assert say(iterations) and say(evaluation, metrics) == [metrics]


def test_a_debug_log_stays_whole():
    assert shorten(MMLogger('debug', log_level='DEBUG')) is None
    assert type(shorten(MMLogger('info'))) is TerminalHandler


def lines_of(work_dir):
    (file,) = work_dir.glob('*/*.log')
    return file.read_text()


@pytest.mark.parametrize('by_epoch', [True, False], ids=['epochs', 'iterations'])
def test_bar_on_a_terminal(tmp_path, monkeypatch, by_epoch):
    monkeypatch.setattr(sys, 'stdout', terminal := Terminal())
    loop = {'by_epoch': True, 'max_epochs': 2} if by_epoch else {'by_epoch': False, 'max_iters': 4, 'val_interval': 2}
    settings = dict(default_hooks={'logger': {'type': 'LoggerHook', 'interval': 1}}, train_cfg=loop)
    if not by_epoch:
        settings['log_processor'] = {'by_epoch': False}
    runner = tiny_runner(tmp_path, kind=with_short_log(Runner), **settings)
    runner.train()
    shown, name = terminal.getvalue(), 'Epoch' if by_epoch else 'Iter'
    assert 'ETA' in shown and '4/4' in shown and f'{name}(train)' not in shown and 'mean:' in shown
    assert ('epoch 2/2' in shown) == by_epoch
    assert 'loss=' in shown and 'System environment' not in shown and 'Hooks will be' not in shown
    log = lines_of(tmp_path)
    assert log.count(f'{name}(train)') == 4 and 'System environment' in log and 'Hooks will be' in log
    # Nothing of it outlives the run.
    assert type(tiny_runner(tmp_path / 'next').logger.handlers[0]) is logging.StreamHandler


def test_an_error_ends_the_bar(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'stdout', Terminal())
    runner = tiny_runner(tmp_path, kind=with_short_log(Runner))

    def stop(*args, **kwargs):
        raise ArithmeticError('stop')

    monkeypatch.setattr(runner.model, 'train_step', stop)
    with pytest.raises(ArithmeticError):
        runner.train()
    assert not runner._terminal.has_bar and runner._bar._bar is None


def test_test_has_a_bar(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'stdout', terminal := Terminal())
    runner = tiny_runner(tmp_path, kind=with_short_log(Runner))
    loader = runner._val_dataloader
    runner = tiny_runner(
        tmp_path,
        kind=with_short_log(Runner),
        test_dataloader=loader,
        test_cfg={},
        test_evaluator=[runner._val_evaluator[0]],
    )
    runner.test()
    assert '2/2' in terminal.getvalue() and 'mean:' in terminal.getvalue() and not runner._terminal.has_bar


def test_pipes_get_lines_without_colours(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'stdout', pipe := io.StringIO())
    tiny_runner(tmp_path, kind=with_short_log(Runner)).train()
    shown = pipe.getvalue()
    assert '\x1b' not in shown and 'ETA' not in shown and 'Epoch(train) [1][2/2]' in shown
    assert f'config: {tmp_path}' in shown and f'log, with config, environment and hooks: {tmp_path}' in shown


def test_the_class_of_the_config_stays(monkeypatch):
    class Mine(Runner):
        @classmethod
        def from_cfg(cls, cfg):
            return cls

    assert build_runner({'runner_type': Mine}) is Mine
    kind = build_runner({'runner_type': Mine}, short_log=True)
    assert issubclass(kind, Mine) and kind is not Mine and kind.__name__ == 'Mine'
    assert with_short_log(Mine) is kind
