"""Evaluate a detector, segmentor or classifier: ``python tools/test.py CONFIG CHECKPOINT [flags]``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mmkerv.cli.common import run
from mmkerv.cli.test import main

if __name__ == '__main__':
    run(main)
