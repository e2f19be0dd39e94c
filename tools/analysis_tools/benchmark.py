"""Time a network or its data: ``benchmark.py CONFIG [--checkpoint FILE] --task inference``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.analysis_tools.benchmark import main
from mmkerv.cli.common import run

if __name__ == '__main__':
    run(main)
