"""Write a config for data of your own: ``new_config.py --task det|seg|cls --data PATH [--out FILE.py]``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.common import run
from mmkerv.cli.new import main

if __name__ == '__main__':
    run(main)
