"""Make an operator network's checkpoint from a plain one: ``plain_to_mmkerv.py SRC DST [--config CONFIG]``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.common import run
from mmkerv.cli.model_converters.plain_to_mmkerv import main

if __name__ == '__main__':
    run(main)
