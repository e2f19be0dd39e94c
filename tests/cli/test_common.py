"""The parts that the commands share: which errors end in a message, and how the message is written."""

import inspect

import pytest

from mmkerv import errors
from mmkerv.cli import common

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
