"""Completion of ``mmkerv`` in a shell, by argcomplete.

The shell runs ``mmkerv`` with the typed line in ``COMP_LINE`` and the position of the program in ``_ARGCOMPLETE``.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from importlib import import_module


def is_asked() -> bool:
    """Return whether the shell runs the program to complete a line.

    Example:
        >>> is_asked()
        False
    """
    return '_ARGCOMPLETE' in os.environ


def complete(modules: Mapping[str, str]) -> None:
    """Answer the shell with subcommands, or with the flags of the one that has been typed, and end the process.

    Args:
        modules: module of each subcommand.

    Example:
        >>> complete({'train': 'mmkerv.cli.train'})  # doctest: +SKIP
    """
    try:
        import argcomplete
        from argcomplete.lexers import split_line
    except ImportError:
        # Registered with the argcomplete of another environment. A subcommand must not be run.
        sys.exit(1)
    start = int(os.environ['_ARGCOMPLETE'])
    *_, words, _ = split_line(os.environ['COMP_LINE'], int(os.environ['COMP_POINT']))
    words = words[start:]
    typed = next((name for n in (2, 1) if (name := ' '.join(words[:n])) in modules), None)
    if typed is None:
        group = words[0] if words and any(name.startswith(f'{words[0]} ') for name in modules) else ''
        prefix = f'{group} ' if group else ''
        choices = {name.removeprefix(prefix).partition(' ')[0] for name in modules if name.startswith(prefix)}
        parser = argparse.ArgumentParser(add_help=not group)
        parser.add_argument('command', choices=sorted(choices))
        _skip(start, 1 if group else 0)
        argcomplete.autocomplete(parser)
        return

    def answer(parser: argparse.ArgumentParser, *args: object, **kwargs: object) -> None:
        # Only flags in front of their argument are parsed here: those of mixed order need a second pass.
        parser.nested = True
        argcomplete.autocomplete(parser)

    _skip(start, len(typed.split()))
    # Every subcommand begins by parsing its arguments, and argcomplete ends the process there.
    argparse.ArgumentParser.parse_args = answer
    import_module(modules[typed]).main([])


def _skip(start: int, words: int) -> None:
    """Let argcomplete take the words of the subcommand for a part of the program."""
    os.environ['_ARGCOMPLETE'] = str(start + words)
