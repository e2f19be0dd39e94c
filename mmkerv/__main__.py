# PYTHON_ARGCOMPLETE_OK
"""``python -m mmkerv``, the command ``mmkerv`` where the folder of the environment's programs is not on the path."""

from mmkerv.cli.main import run_command

if __name__ == '__main__':
    run_command()
