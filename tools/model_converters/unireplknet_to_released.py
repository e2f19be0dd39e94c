"""Write the released names of UniRepLKNet: ``unireplknet_to_released.py SRC DST``, for the public code."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.common import run
from mmkerv.cli.model_converters.unireplknet_to_released import main

if __name__ == '__main__':
    run(main)
