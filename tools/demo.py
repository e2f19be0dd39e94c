"""The main job on built-in data: write it, train, evaluate, fold, evaluate again, compare. ``make demo`` runs it.

Ends with a page, ``report.html``; ``make demo-compare`` also trains the plain network, for its column of that page.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mmkerv.cli.common import run
from mmkerv.cli.demo import main

if __name__ == '__main__':
    run(main)
