"""Tables of the tools and their arguments: ``list_tools.py [--write docs/tools.md]``."""

import argparse
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli import common
from mmkerv.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
BEGIN = '<!-- begin: tools/analysis_tools/list_tools.py -->'
# Tools that maintain mmkerv's documentation.
MAINTENANCE = 'list_'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Print, as markdown, the arguments of every tool from its own parser')
    parser.add_argument('--write', metavar='FILE', help=f'write them into FILE, after {BEGIN}')
    return parser.parse_args(argv)


class _ParserReached(Exception):
    def __init__(self, parser: argparse.ArgumentParser):
        super().__init__()
        self.parser = parser


def parser_of(script: Path) -> argparse.ArgumentParser:
    """Return the parser of a tool without running the tool."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    path, names = list(sys.path), ('parse_args', 'parse_known_args')
    real = {name: getattr(argparse.ArgumentParser, name) for name in names}

    def stop(parser: argparse.ArgumentParser, *args: object, **kwargs: object) -> None:
        raise _ParserReached(parser)

    for name in names:
        setattr(argparse.ArgumentParser, name, stop)
    try:
        spec.loader.exec_module(module)
        # Every tool begins by parsing its arguments.
        module.main()
    except _ParserReached as reached:
        return reached.parser
    finally:
        sys.path[:] = path
        for name, function in real.items():
            setattr(argparse.ArgumentParser, name, function)
    raise RuntimeError(f'{script} did not parse its arguments')


def described(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the lines on a parser: its description, its arguments and those of its subcommands."""
    yield from ('', parser.description, '') if parser.description else ('',)
    rows, commands, helps = [], {}, {}
    for action in sorted(parser._actions, key=lambda action: bool(action.option_strings)):
        if isinstance(action, argparse._SubParsersAction):
            commands = action.choices
            helps = {choice.dest: choice.help for choice in action._choices_actions}
        elif action.help is not argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
            rows.append(f'| {invocation(action)} | {meaning(parser, action)} |')
    if rows:
        yield from ('| argument | meaning |', '|---|---|', *rows)
    for name, command in commands.items():
        yield from ('', f'Subcommand `{name}`: {helps.get(name) or ""}'.rstrip(': '), *described(command))


def invocation(action: argparse.Action) -> str:
    """Return an argument as it is typed."""
    name = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    name = ' '.join(name) if isinstance(name, tuple) else name
    if action.choices and not action.metavar:
        name = '{' + ','.join(map(str, action.choices)) + '}'
    name = {'+': f'{name} ...', '*': f'[{name} ...]', '?': f'[{name}]', 0: ''}.get(action.nargs, name)
    return ', '.join(f'`{f"{option} {name}".strip()}`' for option in action.option_strings or [''])


def meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return the help of an argument with its default filled in."""
    text = parser._get_formatter()._expand_help(action) if action.help else ''
    return ' '.join(text.split()).replace('|', r'\|').replace('<', r'\<')


def document() -> str:
    """Return a section for each folder of tools, with one in it for each tool."""
    lines = []
    folders = sorted({script.parent for script in scripts()}, key=lambda folder: (folder != ROOT / 'tools', folder))
    for folder in folders:
        lines += ['', f'### `{folder.relative_to(ROOT)}/`']
        for script in (script for script in scripts() if script.parent == folder):
            lines += ['', f'#### {script.name}', *command_of(script), *described(parser_of(script))]
    return '\n'.join(lines)


def command_of(script: Path) -> Iterator[str]:
    """Yield the lines on the subcommand of ``mmkerv`` that does the same as a tool."""
    module = re.search(r'^from (\S+) import main$', script.read_text(), re.MULTILINE)
    for name, command in COMMANDS.items():
        if module and command.module == module[1]:
            yield from ('', f'`mmkerv {name}`, `python {script.relative_to(ROOT)}`')


def scripts() -> list[Path]:
    """List the tools for users of mmkerv."""
    files = sorted((ROOT / 'tools').rglob('*.py'))
    return [file for file in files if '__main__' in file.read_text() and not file.name.startswith(MAINTENANCE)]


def main(argv: Sequence[str] | None = None) -> None:
    """Print or write."""
    args = parse_args(argv)
    output = common.between_markers(args.write, BEGIN) if args.write else print
    output(document())


if __name__ == '__main__':
    common.run(main)
