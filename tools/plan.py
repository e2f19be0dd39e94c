"""Check a training and say what it costs, before it is started: ``python tools/plan.py CONFIG``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mmkerv.cli.common import run
from mmkerv.cli.plan import main

if __name__ == '__main__':
    run(main)
