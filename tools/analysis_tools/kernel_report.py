"""Layer by layer, what a network costs, sees and folds to: ``kernel_report.py CONFIG [--out FILE.md]``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.common import run
from mmkerv.cli.kernel_report import main

if __name__ == '__main__':
    run(main)
