"""Draw the samples of a data set with their annotations: ``browse_dataset.py CONFIG --output-dir DIR``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.analysis_tools.browse_dataset import main
from mmkerv.cli.common import run

if __name__ == '__main__':
    run(main)
