"""Plot curves of training runs or print their times: ``analyze_logs.py [plot_curve|cal_train_time] LOGS``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli.analysis_tools.analyze_logs import main
from mmkerv.cli.common import run

if __name__ == '__main__':
    run(main)
