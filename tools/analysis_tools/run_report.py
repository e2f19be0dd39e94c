"""Write the page of a run: ``python tools/analysis_tools/run_report.py WORK_DIR``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.analysis_tools.run_report import main
from mmkerv.cli.common import run

if __name__ == '__main__':
    run(main)
