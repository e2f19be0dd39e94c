"""Fold a trained network into a plain one: ``reparameterize_model.py CONFIG CHECKPOINT OUT``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.common import run
from mmkerv.cli.model_converters.reparameterize_model import main

if __name__ == '__main__':
    run(main)
