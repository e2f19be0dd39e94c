"""Statistics of the kernels that convolve: ``kernel_statistics.py CONFIG [CHECKPOINT] [--compare OTHER]``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.analysis_tools.kernel_statistics import main
from mmkerv.cli.common import run

if __name__ == '__main__':
    run(main)
