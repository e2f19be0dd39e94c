"""Fixtures of the tests of the tools."""

from pathlib import Path

import pytest


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """Folder of small data of the three tasks."""
    from tests.tools.three_tasks import written_data

    return written_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='session')
def comparison(tmp_path_factory) -> Path:
    """Work folder of a finished comparison of small classifiers."""
    for library in ('mmengine', 'mmcv', 'mmpretrain'):
        pytest.importorskip(library)
    from tests.tools.finished_comparison import write_comparison

    return write_comparison(tmp_path_factory.mktemp('finished'))


@pytest.fixture(scope='session')
def weights(comparison, tmp_path_factory) -> Path:
    """Folder of weights that the release tool has evaluated and written."""
    from mmkerv.cli.model_converters.release_weights import main
    from mmkerv.engine import patched

    out = tmp_path_factory.mktemp('weights') / 'small'
    with patched():
        main([str(comparison), '--out', str(out), '--license', 'Apache-2.0'])
    return out
