"""Draw the responses of kervolutions to patches: ``vis_response.py CONFIG CHECKPOINT [--target-layers NAME ...]``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.common import run
from mmkerv.cli.vis.response import main

if __name__ == '__main__':
    run(main)
