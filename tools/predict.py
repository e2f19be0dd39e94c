"""Predict on images: ``python tools/predict.py CONFIG CHECKPOINT IMAGES ...``, or ``... WORK_DIR IMAGES ...``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mmkerv.cli.common import run
from mmkerv.cli.predict import main

if __name__ == '__main__':
    run(main)
