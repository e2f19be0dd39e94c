"""Publish small networks: ``release_weights.py WORK_DIR ... --out FOLDER`` writes weights, configs, cards, an index."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.common import run
from mmkerv.cli.model_converters.release_weights import main

if __name__ == '__main__':
    run(main)
