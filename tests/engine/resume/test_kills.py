import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize('kills', [1, pytest.param(10, marks=pytest.mark.long)])
def test_no_kill_loses_a_checkpoint_or_a_bit(tmp_path, kills):
    """``kills`` kills each of epoch- and iteration-based runs, with 0 and 2 workers."""
    script = [sys.executable, str(ROOT / 'tests' / 'engine' / 'resume' / 'killed_runs.py'), str(tmp_path), str(kills)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(script, capture_output=True, text=True, timeout=3000, env=environment)
    assert not done.returncode, done.stderr[-3000:]
    print(done.stdout)
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f'all: {4 * kills} kills ') and ', 0 failures' in last
