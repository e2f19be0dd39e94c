"""A log that a person reads in the terminal, beside the log file, which has every line as mmengine writes it.

No library is changed: the runner is a subclass of mmengine's that exchanges the handler of its logger for the terminal.
"""

import functools
import logging
import re
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

from mmengine.logging import MMLogger
from mmengine.logging.logger import MMFormatter
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmkerv.engine.console.progress_bar_hook import Bar, ProgressBarHook

# Seconds between two lines on the progress of a training or an evaluation.
SECONDS = 10.0
# Beginnings of messages that only the file has: long ones that are files anyway, and what mmengine says of itself.
FILE_ONLY = re.compile(
    '|'.join(
        (
            r'\n-+\nSystem environment:',
            r'Config:\n',
            r'Hooks will be executed in the following order:',
            r'Exp name: ',
            r'Distributed training is not used, all SyncBatchNorm',
            r'"FileClient" will be deprecated',
            r'"HardDiskBackend" is the alias of',
        )
    )
)
# Messages on single parameters, of which the terminal gets the number.
COUNTED = {
    r'\S+ is skipped since its requires_grad=False': 'parameters are not trained: their requires_grad is False',
    r'\S* ?is duplicate\. It is skipped since': 'layers are shared: the optimizer has their parameters once',
    r'paramwise_options -- ': 'settings of single parameters by paramwise_cfg',
}
PROGRESS = re.compile(r'(?:Epoch|Iter)\((train|val|test)\)\s+(?:\[\s*\d+\])?\[\s*(\d+)/(\d+)\]')


class TerminalHandler(logging.StreamHandler):
    """Handler of mmengine's logger that writes the short log.

    Args:
        stream: where to.
        seconds: time between two lines on progress. The first line, and the last one of each epoch, are always shown.

    Example:
        >>> import sys
        >>> TerminalHandler(sys.stdout).has_bar
        False
    """

    def __init__(self, stream: TextIO, seconds: float = SECONDS):
        super().__init__(stream)
        self.seconds = seconds
        # Whether a bar shows the progress.
        self.has_bar = False
        self._counts: dict[str, int] = {}
        self._shown = -float('inf')

    @classmethod
    def in_place_of(cls, handler: logging.StreamHandler) -> 'TerminalHandler':
        """Return a handler with the stream, level and filters of one of mmengine's; colours are for terminals.

        Example:
            >>> TerminalHandler.in_place_of(logging.StreamHandler()).level
            0
        """
        new = cls(handler.stream)
        new.setLevel(handler.level)
        new.setFormatter(MMFormatter(color=new.is_terminal, datefmt='%m/%d %H:%M:%S'))
        for each in handler.filters:
            new.addFilter(each)
        return new

    @property
    def is_terminal(self) -> bool:
        """Return whether a person sees the stream as it is written."""
        return self.stream.isatty()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message, count it, or leave it to the file."""
        text = record.getMessage()
        kind = next((pattern for pattern in COUNTED if re.match(pattern, text)), None)
        if kind is not None:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            return
        if FILE_ONLY.match(text) or not self._is_due(text):
            return
        counts, self._counts = self._counts, {}
        for pattern, count in counts.items():
            self._write(_record(f'{count} {COUNTED[pattern]}'))
        self._write(record)

    def say(self, text: str) -> None:
        """Write a line that only the terminal gets.

        Example:
            >>> import sys
            >>> TerminalHandler(sys.stdout).say('log: 1.log')
            log: 1.log
        """
        if self.level <= logging.INFO:
            self._write(_record(text))

    def _write(self, record: logging.LogRecord) -> None:
        # A bar is removed, and drawn again below the line.
        with Bar.external_write_mode(file=self.stream) if self.has_bar else nullcontext():
            super().emit(record)

    def _is_due(self, text: str) -> bool:
        progress = PROGRESS.match(text)
        # Lines with the metrics have no estimate of the rest.
        if progress is None or (progress[1] != 'train' and 'eta: ' not in text):
            return True
        if self.has_bar:
            return False
        is_last = progress[1] == 'train' and progress[2] == progress[3]
        if not is_last and time.monotonic() - self._shown < self.seconds:
            return False
        self._shown = time.monotonic()
        return True


def _record(text: str) -> logging.LogRecord:
    return logging.makeLogRecord({'name': 'mmengine', 'levelno': logging.INFO, 'msg': text})


def shorten(logger: MMLogger) -> TerminalHandler | None:
    """Let a logger write the short log to the terminal, unless it logs at level DEBUG.

    Args:
        logger: mmengine's logger; its handlers change.

    Returns:
        The handler of the terminal, ``None`` if there is none.

    Example:
        >>> shorten(MMLogger.get_instance('docs')).level == logging.INFO
        True
    """
    for index, handler in enumerate(logger.handlers):
        if isinstance(handler, TerminalHandler):
            # Of an earlier runner of the same name.
            return handler
        if type(handler) is logging.StreamHandler and handler.level > logging.DEBUG:
            logger.handlers[index] = TerminalHandler.in_place_of(handler)
            return logger.handlers[index]
    return None


@functools.cache
def with_short_log(kind: type[Runner]) -> type[Runner]:
    """Return a subclass of a runner that writes the short log, with a bar where the terminal is one.

    Args:
        kind: class of the runner.

    Example:
        >>> issubclass(with_short_log(Runner), Runner)
        True
    """

    class ShortLogRunner(kind):
        _terminal: TerminalHandler | None = None
        _bar: ProgressBarHook | None = None

        def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
            logger = super().build_logger(*args, **kwargs)
            self._terminal = shorten(logger)
            if self._terminal:
                config = Path(self.work_dir, Path(self.cfg.filename or f'{self.timestamp}.py').name)
                self._terminal.say(f'config: {config}')
                self._terminal.say(f'log, with config, environment and hooks: {logger.log_file}')
            return logger

        def register_hooks(self, *args: Any, **kwargs: Any) -> None:
            super().register_hooks(*args, **kwargs)
            if self._terminal and self._terminal.is_terminal and self._terminal.level <= logging.INFO:
                self._bar = ProgressBarHook(self._terminal)
                self.register_hook(self._bar)

        def train(self) -> Any:
            return self._closing(super().train)

        def val(self) -> Any:
            return self._closing(super().val)

        def test(self) -> Any:
            return self._closing(super().test)

        def _closing(self, run: Any) -> Any:
            try:
                return run()
            finally:
                # An error is printed below the bar.
                if self._bar:
                    self._bar.close()

    ShortLogRunner.__name__, ShortLogRunner.__qualname__ = kind.__name__, kind.__qualname__
    return ShortLogRunner


def runner_class(cfg: Any) -> type[Runner]:
    """Return the class of the runner that a config asks for, as mmengine finds it.

    Example:
        >>> runner_class({}) is Runner
        True
    """
    kind = cfg.get('runner_type', Runner)
    return RUNNERS.get(kind) if isinstance(kind, str) else kind
