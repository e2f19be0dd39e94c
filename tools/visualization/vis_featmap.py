"""Feature maps of a trained network on an image: ``vis_featmap.py IMG CONFIG CHECKPOINT --target-layers LAYER ...``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.common import run
from mmkerv.cli.vis.featmap import main

if __name__ == '__main__':
    run(main)
