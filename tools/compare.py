"""Compare operators on the task of a config: ``python tools/compare.py CONFIG --operators plain coc``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mmkerv.cli.common import run
from mmkerv.cli.compare import main

if __name__ == '__main__':
    run(main)
