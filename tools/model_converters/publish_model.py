"""Strip a checkpoint for release: ``publish_model.py IN_FILE OUT_FILE`` writes OUT_FILE-SHA256[:8].pth."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.common import run
from mmkerv.cli.model_converters.publish_model import main

if __name__ == '__main__':
    run(main)
