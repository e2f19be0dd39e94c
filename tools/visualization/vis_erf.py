"""Effective receptive field of a trained network: ``vis_erf.py CONFIG CHECKPOINT [--compare CONFIG CHECKPOINT]``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.common import run
from mmkerv.cli.vis.erf import main

if __name__ == '__main__':
    run(main)
