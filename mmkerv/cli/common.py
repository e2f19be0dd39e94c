"""Command-line parts that the tools share. It imports nothing large, so that ``-h`` answers at once."""

import argparse
import os
import re
import select
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkerv.cli.network import NetworkParser
from mmkerv.errors import InstallationError, UserError

if TYPE_CHECKING:
    from mmengine.config import Config

# Ends the generated part of a document.
END = '<!-- end -->'
# Longest message, in characters: the names in a file may be endless.
MESSAGE_LENGTH = 2000
# Stands for a blank inside a value of --cfg-options.
BLANK = '\0'
BRACKETS = ('[]', '()')


class LazyDictAction(argparse.Action):
    """mmengine's ``DictAction``, imported when the flag is used; it would also remove the blanks inside a value."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None):
        """Parse ``key=value`` pairs as mmengine does, but for blanks."""
        from mmengine.config import DictAction

        pairs = []
        for value in values:
            key, equals, text = value.partition('=')
            if not equals:
                parser.error(f'{option} takes key=value pairs, got {value!r}')
            if any(text.count(left) != text.count(right) for left, right in BRACKETS) and is_sequence(text):
                parser.error(f'{option} {value}: its brackets are not in pairs')
            pairs.append(f'{key}={protected(text)}')
        DictAction(self.option_strings, self.dest)(parser, namespace, pairs, option)
        setattr(namespace, self.dest, restored(getattr(namespace, self.dest)))


def is_sequence(text: str) -> bool:
    """Tell whether mmengine takes the text of a value for a list or tuple.

    Example:
        >>> is_sequence('[1]'), is_sequence('1, 2'), is_sequence('my data (2)')
        (True, True, False)
    """
    text = text.strip(' \'"')
    return ',' in text or (text[:1] in '[(' and text[-1:] in '])')


def protected(text: str) -> str:
    r"""Replace the blanks that belong to a value by characters that mmengine leaves alone.

    Example:
        >>> protected('my data'), protected('[1, a b]')
        ('my\x00data', '[1,a\x00b]')
    """
    text = text.strip().strip('\'"')
    if is_sequence(text):
        text = re.sub(r'\s*([,()\[\]])\s*', r'\1', text)
    return text.replace(' ', BLANK)


def restored(value: Any) -> Any:
    r"""Put the blanks back.

    Example:
        >>> restored({'data_root': 'my\x00data', 'scale': (1, 2)})
        {'data_root': 'my data', 'scale': (1, 2)}
    """
    if isinstance(value, dict):
        return {key: restored(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(restored, value))
    return value.replace(BLANK, ' ') if isinstance(value, str) else value


def runner_arguments(description: str, trained: bool = False) -> NetworkParser:
    """Return a parser with the flags that OpenMMLab's train.py and test.py have in common."""
    parser = NetworkParser(description=description)
    if trained:
        parser.add_network()
    else:
        parser.add_argument('config', help='config file')
    written, subfolder = ('logs', '/test') if trained else ('logs and checkpoints', '')
    parser.add_argument('--work-dir', help=f'folder for {written}; default work_dirs/NAME_OF_CONFIG{subfolder}')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument('--no-pin-memory', action='store_true', help='do not pin the memory of the data loaders')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument(
        '--verbose',
        action='store_true',
        help='print the whole log, with config, environment and hooks, which is otherwise in the log file alone',
    )
    # torchrun sets LOCAL_RANK; the older launcher passes one of these.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    add_operator(parser)
    add_cfg_options(parser)
    add_trust(parser)
    return parser


def add_operator(parser: argparse.ArgumentParser) -> None:
    """Add ``--operator`` and ``--where``, which :func:`place_operator` applies to the config."""
    parser.add_argument(
        '--operator',
        metavar='SPEC',
        help='put an operator into the whole model of the config of a plain network: its short name, with its '
        'arguments behind a colon, such as coc or coc:super_init=kaiming',
    )
    parser.add_argument(
        '--where',
        nargs='+',
        action='extend',
        metavar='KEY=VALUE',
        help='which convolutions --operator replaces, such as stages=2,3 stem=False names=^backbone; default all that '
        'it takes',
    )


def place_operator(cfg: 'Config', args: argparse.Namespace) -> None:
    """Put the operator of ``--operator`` and ``--where`` into the model of a config, in place.

    Raises:
        ConfigError: for a text that is none, ``--where`` alone, or a config that has an operator already.
    """
    from mmkerv.engine.config.operator_spec import OVERRIDE, parse_operator
    from mmkerv.engine.config.place_operator import place_operator
    from mmkerv.errors import ConfigError

    if args.operator is None:
        if args.where:
            raise ConfigError(f'--where {" ".join(args.where)} needs an operator to place: add --operator, such as coc')
        return
    spec = parse_operator(args.operator, args.where or ())
    if spec.overrides:
        settings = ' '.join(f'{key}={value}' for key, value in spec.overrides.items())
        raise ConfigError(
            f'--operator {args.operator!r}: {OVERRIDE} settings are of tools/compare.py; give --cfg-options {settings}'
        )
    place_operator(cfg, spec)


def add_changes(parser: argparse.ArgumentParser) -> None:
    """Add the flags that change many places of the config of a training, which :func:`change` applies."""
    parser.add_argument(
        '--img-size', type=int, metavar='N', help='longer side of crops or images: sizes are scaled to it'
    )
    parser.add_argument('--max-iters', type=int, metavar='N', help='train for N iterations, with the schedule scaled')
    parser.add_argument(
        '--no-pretrained', action='store_true', help='start from scratch: no weights are loaded, and nothing is frozen'
    )


def check_changes(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse values of these flags that are out of range."""
    for flag in ('img_size', 'max_iters'):
        if (value := getattr(args, flag)) is not None and value < 1:
            parser.error(f'--{flag.replace("_", "-")} must be >= 1, got {value}')


def change(cfg: 'Config', args: argparse.Namespace) -> None:
    """Apply ``--img-size`` and ``--no-pretrained``, and log each change."""
    from mmkerv.engine.config.from_scratch import remove_pretrained
    from mmkerv.engine.config.image_size import set_image_size
    from mmkerv.utils import log

    if args.img_size:
        changes = set_image_size(cfg, args.img_size)
        log(f'mmkerv: --img-size {args.img_size}: {"; ".join(changes) or "as in the config"}')
    if args.no_pretrained:
        changes = remove_pretrained(cfg)
        log(f'mmkerv: --no-pretrained: {"; ".join(changes) or "the config loads no weights"}')


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=LazyDictAction,
        metavar='KEY=VALUE',
        help='settings that replace those of the config, such as optim_wrapper.optimizer.lr=0.02 or key="[a,b]"; '
        'data_root=DIR moves every data set',
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-checkpoint``."""
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='read checkpoints with the unrestricted unpickler, which runs any code they contain',
    )


def between_markers(file: str, begin: str) -> Callable[[str], None]:
    """Return a function that replaces the text between two marker lines of a document.

    Raises:
        OSError: if the document lacks one of the lines.
    """
    path = Path(file)
    before, begin_marker, rest = path.read_text(encoding='utf-8').partition(begin)
    _, end_marker, after = rest.partition(END)
    if not begin_marker or not end_marker:
        raise OSError(f'{path} has no lines "{begin}" and "{END}"; add them where the text belongs')

    def write(text: str) -> None:
        partial = path.with_suffix(f'{path.suffix}.part')
        partial.write_text(f'{before}{begin}\n\n{text.strip()}\n\n{END}{after}', encoding='utf-8')
        partial.replace(path)
        print(f'wrote {path}')

    return write


def export_rank(args: argparse.Namespace) -> None:
    """Tell mmengine the local rank if the launcher did not."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))


def run(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> None:
    """Run a command: an error of the user's ends in one message and exit status 1, a defect in a traceback.

    Ctrl-C ends it with status 130, as the shell reports it of a program that SIGINT has stopped, and a reader of its
    output that goes away, such as ``head``, with 141.
    """
    try:
        try:
            with warnings.catch_warnings():
                # mmdet says so of another metric than the one that is used.
                warnings.filterwarnings('ignore', 'faster_coco_eval is not installed')
                main(argv)
        finally:
            # The interpreter would write the rest at its exit, and an error of that to the terminal.
            sys.stdout.flush()
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            sys.exit(141)
        message = _user_message(error)
        if message is None:
            raise
        sys.exit(f'error: {message}')


def _reader_has_gone() -> bool:
    """Tell whether nothing reads the output any more; what is left of it then goes nowhere."""
    # Another pipe may be the broken one. Windows does not tell.
    if hasattr(select, 'poll'):
        output = select.poll()
        output.register(sys.stdout.fileno(), 0)
        if not output.poll(0):
            return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _one_line(text: str) -> str:
    """Join the lines and escape control characters: a message may quote a file, and a terminal would obey them."""
    text = '; '.join(line.strip() for line in text.splitlines() if line.strip())
    shown = ''.join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    half = MESSAGE_LENGTH // 2
    return shown if len(shown) <= MESSAGE_LENGTH else f'{shown[:half]} ... {shown[-half:]}'


def _user_message(error: Exception) -> str | None:
    """Return the message of an error that the user can fix, else ``None``."""
    if 'mmengine' in sys.modules and 'torch' in sys.modules:
        from mmkerv.engine.config.build_errors import described

        if (message := described(error)) is not None:
            return _one_line(message)
    if isinstance(error, InstallationError):
        # Its lines are commands to type.
        return str(error)
    if isinstance(error, (UserError, OSError)):
        # An error in a worker of a data loader comes with that process's traceback; the last line is its message.
        text = str(error).strip().splitlines()[-1] if str(error).startswith('Caught ') else str(error)
        return _one_line(re.sub(r'^(\w+\.)+\w+Error: ', '', text))
    if isinstance(error, KeyError) and 'Cannot find None in registry' in str(error):
        return (
            f"{error.args[0]}: a conv_cfg names a type that is not registered. Use type='mmkerv.CoCConv', or "
            "custom_imports=dict(imports=['mmkerv'], allow_failed_imports=False) with type='CoCConv'"
        )
    return None
