# PYTHON_ARGCOMPLETE_OK
"""The command ``mmkerv``: each subcommand is a module, most of them of :mod:`mmkerv.cli`.

It imports the module of the subcommand that is asked for and nothing large, so that ``-h`` answers at once.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

from mmkerv.cli import common, completion
from mmkerv.errors import ArgumentError
from mmkerv.version import __version__


class Command(NamedTuple):
    """A subcommand.

    Args:
        module: module with ``main(argv)``, which may return an exit status.
        summary: one line for ``mmkerv -h``.

    Example:
        >>> Command('mmkerv.cli.train', 'train a detector').module
        'mmkerv.cli.train'
    """

    module: str
    summary: str


# Heading -> name as it is typed -> subcommand. A new subcommand is a line here. Those of two words are a group.
SECTIONS = {
    'plan, train, test, compare': {
        'train': Command('mmkerv.cli.train', 'train a detector, segmentor or classifier'),
        'test': Command('mmkerv.cli.test', 'evaluate one'),
        'plan': Command('mmkerv.cli.plan', 'check a training, and say what it does and costs, before it is started'),
        'predict': Command('mmkerv.cli.predict', 'predict on images: pictures and JSON'),
        'compare': Command('mmkerv.cli.compare', 'train a config with several operators and compare them'),
        'report': Command('mmkerv.cli.analysis_tools.run_report', 'write the page of a training'),
        'analyze-logs': Command(
            'mmkerv.cli.analysis_tools.analyze_logs', 'draw curves of trainings, or print their times'
        ),
        'demo': Command('mmkerv.cli.demo', 'train, test and fold a small detector on built-in data'),
    },
    'deploy': {
        'fold': Command('mmkerv.cli.model_converters.reparameterize_model', 'fold a trained network into a plain one'),
        'decompose': Command(
            'mmkerv.cli.model_converters.decompose', 'make the convolutions of a trained network low-rank ones'
        ),
        'publish': Command('mmkerv.cli.model_converters.publish_model', 'strip a checkpoint for release'),
        'release': Command(
            'mmkerv.cli.model_converters.release_weights', 'a folder of small weights, trained and folded, with cards'
        ),
        'convert plain': Command(
            'mmkerv.cli.model_converters.plain_to_mmkerv', 'a plain checkpoint for a network with operators'
        ),
        'convert ckconv': Command('mmkerv.cli.model_converters.ckconv_to_mmkerv', "a checkpoint of CKConv's authors"),
        'convert dcls': Command('mmkerv.cli.model_converters.dcls_to_mmkerv', "a checkpoint of DCLS's authors"),
        'convert unireplknet': Command(
            'mmkerv.cli.model_converters.unireplknet_to_released', 'a UniRepLKNet to its released names'
        ),
    },
    'look at a network': {
        'vis-kernel': Command('mmkerv.cli.vis.kernel', 'draw kernels, their spectra, or what an image gets from them'),
        'vis-erf': Command('mmkerv.cli.vis.erf', 'draw effective receptive fields'),
        'vis-cam': Command('mmkerv.cli.vis.cam', 'draw class activation maps'),
        'vis-featmap': Command('mmkerv.cli.vis.featmap', 'draw feature maps'),
        'vis-response': Command('mmkerv.cli.vis.response', 'draw responses of kervolutions'),
        'flops': Command('mmkerv.cli.analysis_tools.get_flops', 'count multiply-adds and parameters'),
        'benchmark': Command('mmkerv.cli.analysis_tools.benchmark', 'time a network or its data'),
        'kernel-report': Command(
            'mmkerv.cli.analysis_tools.kernel_report', 'cost, receptive field and folded form of every layer'
        ),
        'statistics': Command('mmkerv.cli.analysis_tools.kernel_statistics', 'statistics of the kernels that convolve'),
    },
    'configs, data, installation': {
        'new': Command('mmkerv.cli.new', 'check data of your own and write a config for it'),
        'ops': Command('mmkerv.cli.ops', 'list the operators, or describe one'),
        'configs': Command('mmkerv.cli.configs', 'list the configs that come with mmkerv'),
        'print-config': Command('mmkerv.cli.print_config', 'print a config with everything it inherits'),
        'browse-dataset': Command('mmkerv.cli.analysis_tools.browse_dataset', 'draw the samples of a data set'),
        'shapes': Command('mmkerv.datasets.shapes', 'write the built-in data'),
        'env': Command('mmkerv.env', 'versions of the installed libraries, and problems with them'),
    },
}
HELP = ('-h', '--help')
COMMANDS = {name: command for section in SECTIONS.values() for name, command in section.items()}


def groups() -> list[str]:
    """Return the first words of subcommands of two words.

    Example:
        >>> groups()
        ['convert']
    """
    return sorted({name.partition(' ')[0] for name in COMMANDS if ' ' in name})


def overview(group: str = '') -> str:
    """Return the help on all subcommands, or on those of a group.

    Example:
        >>> print(overview('convert').splitlines()[0])
        usage: mmkerv convert {plain,ckconv,dcls,unireplknet} ...
    """
    if group:
        kinds = {name.removeprefix(f'{group} '): c for name, c in COMMANDS.items() if name.startswith(f'{group} ')}
        lines = [f'usage: mmkerv {group} {{{",".join(kinds)}}} ...', '', *_rows(kinds)]
        return '\n'.join([*lines, '', f'mmkerv {group} KIND -h prints the arguments of one.'])
    lines = ['usage: mmkerv COMMAND ...', '', 'New convolutions for OpenMMLab: train, compare, fold and look at them.']
    for heading, section in SECTIONS.items():
        lines += ['', f'{heading}:', *_rows(section)]
    return '\n'.join(
        [*lines, '', 'mmkerv COMMAND -h prints the arguments of one, mmkerv --version the version of mmkerv.']
    )


def _rows(commands: dict[str, Command]) -> list[str]:
    width = max(map(len, COMMANDS))
    return [f'  {name:<{width}}  {command.summary}' for name, command in commands.items()]


def split(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the name of the subcommand and the words after it.

    Raises:
        ArgumentError: if there is no such subcommand, with those of similar names.

    Example:
        >>> split(['convert', 'dcls', 'a.pth', 'b.pth'])
        ('convert dcls', ['a.pth', 'b.pth'])
    """
    for length in (2, 1):
        if (name := ' '.join(words[:length])) in COMMANDS:
            return name, list(words[length:])
    name = ' '.join(words[: 2 if words[0] in groups() else 1])
    # The tools' own names, such as get_flops, lead to the subcommands as well.
    known = {command.module.rpartition('.')[2].replace('_', '-'): typed for typed, command in COMMANDS.items()}
    known |= {typed: typed for typed in (*groups(), *COMMANDS)}
    near = dict.fromkeys(known[found] for found in get_close_matches(name.replace('_', '-').lower(), known, n=3))
    meant = f'did you mean {" or ".join(map(repr, near))}? ' if near else ''
    raise ArgumentError(f'mmkerv has no command {name!r}; {meant}mmkerv -h lists the commands')


def main(argv: Sequence[str] | None = None) -> None:
    """Run a subcommand, or print help or the version."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in HELP:
        print(overview())
    elif words[0] == '--version':
        print(f'mmkerv {__version__}')
    elif words[0] in groups() and (len(words) == 1 or words[1] in HELP):
        print(overview(words[0]))
    else:
        name, rest = split(words)
        with _named(f'mmkerv {name}', rest):
            status = import_module(COMMANDS[name].module).main(rest)
        if status:
            sys.exit(status)


@contextmanager
def _named(program: str, words: list[str]) -> Iterator[None]:
    """Let the parsers of a subcommand, which name themselves by ``sys.argv``, print its name."""
    before = sys.argv
    sys.argv = [program, *words]
    try:
        yield
    finally:
        sys.argv = before


def run_command() -> None:
    """Run ``mmkerv``: the entry point of the installed program and of ``python -m mmkerv``."""
    if completion.is_asked():
        completion.complete({name: command.module for name, command in COMMANDS.items()})
        return
    common.run(main)
