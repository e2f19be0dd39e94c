"""Runs of tools inside the process of the test, for the many that must be refused."""

import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parents[2]


def refused(tool: str, *arguments: object) -> str:
    """Return the one-line message with which the tool ends."""
    with (
        mock.patch.object(sys, 'argv', [tool, *map(str, arguments)]),
        mock.patch.object(sys, 'path', list(sys.path)),
        pytest.raises(SystemExit) as ended,
    ):
        runpy.run_path(str(ROOT / tool), run_name='__main__')
    message = ended.value.code
    assert isinstance(message, str) and message.startswith('error: ') and '\n' not in message
    return message
