"""Convert a checkpoint of the DCLS authors: ``dcls_to_mmkerv.py SRC DST`` writes one for ConvNeXt with DCLSConv."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.common import run
from mmkerv.cli.model_converters.dcls_to_mmkerv import main

if __name__ == '__main__':
    run(main)
