"""What ``mmkerv`` answers the shell that completes a line."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A stand-in for argcomplete where it is not installed: it prints what the parser offers after the words of the program.
PACKAGE = """
import os

def autocomplete(parser):
    offered = [option for action in parser._actions for option in action.option_strings]
    offered += [choice for action in parser._actions if not action.option_strings for choice in action.choices or ()]
    prefix = os.environ['COMP_LINE'].rpartition(' ')[2]
    with open(os.environ['_ARGCOMPLETE_STDOUT_FILENAME'], 'w') as out:
        out.write('\\x0b'.join(word for word in offered if word.startswith(prefix)))
    os._exit(0)
"""
LEXERS = """
def split_line(line, point):
    *words, prefix = line[:point].split(' ')
    return '', prefix, '', [word for word in words if word], None
"""


@pytest.fixture(params=['argcomplete', 'a stand-in'])
def complete(request, tmp_path):
    """Return a function that completes a line in a process of its own, as the shell does."""
    path = [str(ROOT)]
    if request.param == 'a stand-in':
        (tmp_path / 'argcomplete').mkdir()
        (tmp_path / 'argcomplete' / '__init__.py').write_text(PACKAGE)
        (tmp_path / 'argcomplete' / 'lexers.py').write_text(LEXERS)
        path.insert(0, str(tmp_path))
    elif find_spec('argcomplete') is None:
        pytest.skip('argcomplete is not installed')

    def answer(line: str) -> list[str]:
        out = tmp_path / 'answer'
        asked = {'COMP_LINE': line, 'COMP_POINT': str(len(line)), '_ARGCOMPLETE': '1'}
        asked |= {'_ARGCOMPLETE_STDOUT_FILENAME': str(out), 'PYTHONPATH': os.pathsep.join([*path, *sys.path[1:]])}
        code = 'import sys; from mmkerv.cli.main import run_command; sys.argv = ["mmkerv"]; run_command()'
        done = subprocess.run(
            [sys.executable, '-c', code], env={**os.environ, **asked}, cwd=tmp_path, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, ''), done.stderr
        return [word.strip() for word in out.read_text().split('\x0b')]

    return answer


@pytest.mark.parametrize(
    ('line', 'words'),
    [
        ('mmkerv vis-k', ['vis-kernel']),
        ('mmkerv conv', ['convert']),
        ('mmkerv convert d', ['dcls']),
        ('mmkerv train --auto', ['--auto-scale-lr']),
        ('mmkerv fold a.py --upst', ['--upstream-deploy']),
        ('mmkerv convert dcls a.pth --lay', ['--layout']),
    ],
)
def test_subcommands_and_flags_are_completed(complete, line, words):
    assert complete(line) == words


def test_without_argcomplete_nothing_is_run(tmp_path):
    (tmp_path / 'argcomplete.py').write_text('raise ImportError\n')
    env = {**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}', '_ARGCOMPLETE': '1', 'COMP_LINE': 'mmkerv '}
    done = subprocess.run([sys.executable, '-m', 'mmkerv'], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, ''), done.stderr
