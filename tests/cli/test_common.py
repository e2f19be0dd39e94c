"""The parts that the commands share: which errors end in a message, and how the message is written."""

import argparse
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from mmkerv import errors
from mmkerv.cli import common

ROOT = Path(__file__).resolve().parents[2]
USER_ERRORS = [error for _, error in inspect.getmembers(errors, inspect.isclass)]


def message_of(error: Exception) -> str:
    """The message with which a command ends that raises the error."""

    def main(argv):
        raise error

    with pytest.raises(SystemExit) as ended:
        common.run(main)
    return ended.value.code


def test_all_errors_of_the_package_are_listed():
    assert {errors.FoldError, errors.ExportCheckError, errors.ConfigError} <= set(USER_ERRORS)
    assert all(issubclass(error, errors.UserError) for error in USER_ERRORS)


@pytest.mark.parametrize('kind', [*USER_ERRORS, OSError, FileNotFoundError], ids=lambda kind: kind.__name__)
def test_an_error_of_the_users_ends_in_one_message(kind):
    assert message_of(kind('degree must be >= 1, got 0')) == 'error: degree must be >= 1, got 0'


@pytest.mark.parametrize('kind', [ValueError, RuntimeError, TypeError, KeyError])
def test_a_defect_keeps_its_traceback(kind):
    def main(argv):
        raise kind('defect')

    with pytest.raises(kind, match='defect'):
        common.run(main)


def test_ctrl_c_ends_without_a_traceback(capsys):
    def main(argv):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        common.run(main)
    assert ended.value.code == 130 and capsys.readouterr().err == 'interrupted\n'


@pytest.mark.parametrize('words', [['-h'], ['ops']])
def test_a_reader_that_goes_away_is_no_error(words):
    command = [sys.executable, '-m', 'mmkerv', *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        process.stdout.close()
        assert process.stderr.read() == '' and process.wait() == 141


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('a b', 'a b'),
        ('/my data/coco (2)/', '/my data/coco (2)/'),
        ("'a  b'", 'a  b'),
        (' 3', 3),
        ('(1, 2)', (1, 2)),
        ('[(1, 2), (3, 4)]', [(1, 2), (3, 4)]),
        ('[a b, c]', ['a b', 'c']),
        ('1, 2', [1, 2]),
        ('"[a,b]"', ['a', 'b']),
        ('None', None),
        ('', ''),
        ('a=b c', 'a=b c'),
    ],
)
def test_blanks_in_the_value_of_an_option_are_kept(text, value):
    """mmengine's own parser removes them: data_root="a b" would be the folder ab."""
    pytest.importorskip('mmengine')
    parser = argparse.ArgumentParser()
    common.add_cfg_options(parser)
    options = parser.parse_args(['--cfg-options', f'key={text}', 'n=1']).cfg_options
    assert options == {'key': value, 'n': 1} and type(options['key']) is type(value)


@pytest.mark.parametrize('text', ['[1, 2', '(1, [2)', 'a, b)'])
def test_brackets_without_their_pair_are_refused(text, capsys):
    pytest.importorskip('mmengine')
    parser = argparse.ArgumentParser()
    common.add_cfg_options(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(['--cfg-options', f'key={text}'])
    assert f'--cfg-options key={text}: its brackets are not in pairs' in capsys.readouterr().err


def test_arguments_reach_the_command():
    seen = []
    common.run(seen.append, ['--flag'])
    common.run(seen.append)
    assert seen == [['--flag'], None]


def test_text_of_a_file_is_made_harmless():
    message = message_of(errors.ConfigError('key \x1b[31m\nnext line\n'))
    assert message == 'error: key \\x1b[31m; next line'
    assert len(message_of(errors.ConfigError('a' * 10**6))) < 1.1 * common.MESSAGE_LENGTH


def test_lines_of_an_installation_error_are_kept():
    assert message_of(errors.InstallationError('run\n    pip install mmcv')) == 'error: run\n    pip install mmcv'


def test_the_error_of_a_worker_is_its_last_line():
    text = (
        'Caught DataError in DataLoader worker process 0.\nTraceback:\n  ...\nmmkerv.errors.DataError: a.jpg is broken'
    )
    assert message_of(errors.DataError(text)) == 'error: a.jpg is broken'


def test_an_unregistered_type_names_the_fix():
    text = message_of(KeyError("'CoCConf' is not in the model registry. Cannot find None in registry"))
    assert "Use type='mmkerv.CoCConv'" in text
