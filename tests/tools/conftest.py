"""Fixtures of the tests of the tools."""

from pathlib import Path

import pytest


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """Folder of small data of the three tasks."""
    from tests.tools.three_tasks import written_data

    return written_data(tmp_path_factory.mktemp('data'))
