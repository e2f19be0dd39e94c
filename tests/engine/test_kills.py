import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
def test_no_kill_loses_a_checkpoint_or_a_bit(tmp_path):
    """Ten kills each of runs over epochs and iterations, with 0 and 2 workers."""
    script = [sys.executable, str(ROOT / 'tests' / 'engine' / 'killed_runs.py'), str(tmp_path), '10']
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT / 'tests')}
    done = subprocess.run(script, capture_output=True, text=True, timeout=3000, env=environment)
    assert not done.returncode, done.stderr[-3000:]
    print(done.stdout)
    assert done.stdout.splitlines()[-1].startswith('all: 40 kills ') and ', 0 failures' in done.stdout.splitlines()[-1]
