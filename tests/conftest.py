"""What every test shares: the GPU mark, the real data, and skips listed by reason at the end."""

import os
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests marked `long` out unless `-m` asks for them."""
    if 'long' in (config.option.markexpr or ''):
        return
    left_out = [item for item in items if item.get_closest_marker('long')]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` where there is no CUDA device."""
    if item.get_closest_marker('gpu'):
        import torch

        if not torch.cuda.is_available():
            pytest.skip('no CUDA device')


@pytest.fixture(scope='session')
def data_root() -> Path:
    """The folder with the small real data sets: MMKERV_DATA, or ../shared/data next to the repository."""
    given = os.environ.get('MMKERV_DATA')
    root = Path(given) if given else ROOT.parent / 'shared' / 'data'
    if not root.is_dir():
        if given:
            pytest.fail(f'MMKERV_DATA is set to {given}, which is not a folder')
        pytest.skip('no real data: MMKERV_DATA is not set')
    return root


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the skips grouped by reason."""
    reasons = Counter()
    for report in terminalreporter.stats.get('skipped', ()):
        # A skip's longrepr is (file, line, reason); its reason starts with the word, which would only repeat the title.
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        # xdoctest gives no reason of its own.
        reason = reason.removeprefix('Skipped: ')
        reasons[
            'docstring example that needs a checkpoint or a data set (+SKIP)' if reason == 'Skipped' else reason
        ] += 1
    if reasons:
        terminalreporter.section('skipped, by reason')
        for reason, count in reasons.most_common():
            terminalreporter.write_line(f'{count:5d}  {reason}')
