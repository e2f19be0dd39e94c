"""Train, evaluate and fold a small RetinaNet on built-in data: ``python tools/demo.py [--compare]``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mmkerv.cli.common import run
from mmkerv.cli.demo import main

if __name__ == '__main__':
    run(main)
