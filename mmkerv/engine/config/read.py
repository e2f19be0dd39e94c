"""Reading config files: what is wrong with one is said in a line, and files of data run nothing."""

import traceback
from pathlib import Path
from typing import IO, Any

import yaml
from mmengine.config import Config
from mmengine.fileio.handlers import PickleHandler, YamlHandler
from mmengine.fileio.handlers.registry_utils import file_handlers

from mmkerv.engine.checkpoint.unpickler import restricted_load
from mmkerv.errors import ConfigError, UnsafeCheckpointError

SUFFIXES = ('.py', '.json', '.yaml', '.yml')


def read_config(path: str) -> Config:
    """Read a config file. One in Python is a program, and is run; YAML and JSON are data, and run nothing.

    From here on mmengine reads data files in this process as :func:`install_safe_data_files` has it.

    Args:
        path: file.

    Raises:
        ConfigError: naming the file and what is wrong with it: its suffix, its syntax, an error in its code, base
            configs that include one another.
        FileNotFoundError: if it or a base config is not there.

    Example:
        >>> read_config('configs/retinanet_r50.py').model.type  # doctest: +SKIP
        'RetinaNet'
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'config {path!r} does not exist; give the path of a config file')
    if Path(path).suffix not in SUFFIXES:
        raise ConfigError(f'config {path!r} must end in one of {", ".join(SUFFIXES)}; give a config file')
    install_safe_data_files()
    try:
        _refuse_cycle(Path(path), (), set())
        return Config.fromfile(path)
    except ConfigError:
        raise
    except OSError as error:
        if error.filename is None:
            raise ConfigError(f'config {path!r} cannot be read: {error}') from error
        raise FileNotFoundError(
            f'config {path!r} needs {str(error.filename)!r}, which cannot be read ({error.strerror}). Change its '
            '_base_, or put the file there'
        ) from error
    # What the code in a config raises can be anything.
    except Exception as error:
        raise ConfigError(f'config {path!r} cannot be read: {_said(error, path)}. Correct the file') from error


def install_safe_data_files(trust: bool = False) -> None:
    """Make mmengine read YAML as data alone, and pickles (annotations, proposals) as :func:`mmkerv.engine.safe_load`.

    mmengine's own reader of YAML constructs any Python object that a file names, and pickles run anything.

    Args:
        trust: read pickles without restriction.

    Example:
        >>> install_safe_data_files()
    """
    file_handlers.update(dict.fromkeys(('yaml', 'yml'), SafeYamlHandler()))
    file_handlers.update(dict.fromkeys(('pkl', 'pickle'), PickleHandler() if trust else SafePickleHandler()))


class SafeYamlLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which also knows tuples: mmengine writes them.

    Example:
        >>> yaml.load('!!python/tuple [1, 2]', SafeYamlLoader)
        (1, 2)
    """


SafeYamlLoader.add_constructor(
    'tag:yaml.org,2002:python/tuple', lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)


class SafeYamlHandler(YamlHandler):
    """mmengine's handler of YAML that constructs numbers, strings, lists, tuples and dicts only.

    Example:
        >>> import io
        >>> SafeYamlHandler().load_from_fileobj(io.StringIO('a: [1, 2]'))
        {'a': [1, 2]}
    """

    def load_from_fileobj(self, file: IO, **_: Any) -> Any:
        """Read."""
        return yaml.load(file, SafeYamlLoader)  # noqa: S506, it is a SafeLoader


class SafePickleHandler(PickleHandler):
    """mmengine's handler of pickles that reads arrays, numbers, strings and containers only.

    Raises:
        UnsafeCheckpointError: for anything else; nothing of it has been executed.

    Example:
        >>> import io, pickle
        >>> SafePickleHandler().load_from_fileobj(io.BytesIO(pickle.dumps({'a': 1}, 2)))
        {'a': 1}
    """

    def load_from_fileobj(self, file: IO[bytes], **_: Any) -> Any:
        """Read."""
        try:
            return restricted_load(file)
        except OSError:
            raise
        # As in safe_load: a damaged file ends in whatever its bytes happen to mean.
        except Exception as error:
            name = getattr(file, 'name', 'a stream')
            raise UnsafeCheckpointError(
                f'pickle {name!r} was not read: it is damaged, or holds more than data ({error}). Nothing of it was '
                'executed. Write it as JSON, or, if you trust where it comes from, use --trust-checkpoint (in Python '
                'mmkerv.engine.config.read.install_safe_data_files(trust=True))'
            ) from error


def _refuse_cycle(file: Path, above: tuple[Path, ...], sound: set[Path]) -> None:
    """Refuse it here: mmengine follows base configs without end, a second for each hundred of them."""
    file = file.resolve()
    if file in above:
        cycle = ' -> '.join(str(part) for part in (*above[above.index(file) :], file))
        raise ConfigError(f'config {str(above[0])!r} inherits from itself: {cycle}. Change _base_ in one of them')
    # What is not there, or of another package, is left to mmengine.
    if file in sound or not file.is_file():
        return
    for base in Config._get_base_files(str(file)):
        if isinstance(base, str) and '::' not in base:
            _refuse_cycle(file.parent / base, (*above, file), sound)
    sound.add(file)


def _said(error: Exception, path: str) -> str:
    """The kind of an error, its line in the config where there is one, and what it says."""
    # Some versions of mmengine compile a config without its name.
    files = ('', str(Path(path).absolute()))
    inside = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    line = getattr(error, 'lineno', None) or (inside[-1] if inside else None)
    place = f' (line {line})' if line else ''
    said = ' '.join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    return f'{type(error).__name__}{place}: {said.rstrip(".")}'
