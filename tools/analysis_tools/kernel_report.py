"""Report cost, receptive field and folded form of every layer: ``kernel_report.py CONFIG [--out FILE.md]``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.analysis_tools.kernel_report import main
from mmkerv.cli.common import run

if __name__ == '__main__':
    run(main)
