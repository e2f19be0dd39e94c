"""Print a config with everything it inherits: ``print_config.py CONFIG [--save-path FILE]``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.common import run
from mmkerv.cli.print_config import main

if __name__ == '__main__':
    run(main)
