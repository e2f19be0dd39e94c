"""Count multiply-adds and parameters of a config's network: ``get_flops.py CONFIG [--shape H W | --num-images N]``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.analysis_tools.get_flops import main
from mmkerv.cli.common import run

if __name__ == '__main__':
    run(main)
