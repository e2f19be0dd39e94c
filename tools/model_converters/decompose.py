"""Make the convolutions of a trained network low-rank ones: ``decompose.py CONFIG CHECKPOINT OUT --rate R``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.common import run
from mmkerv.cli.model_converters.decompose import main

if __name__ == '__main__':
    run(main)
