"""Read config files, with one-line errors; YAML and JSON files run no code."""

import traceback
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import import_modules_from_strings

from mmkerv import env
from mmkerv.config_files import require_config
from mmkerv.distributions import LIBRARIES, OPTIONAL_LIBRARIES, importable
from mmkerv.engine.config.check import check_hooks, check_operators, datasets
from mmkerv.engine.config.imports import check_imports
from mmkerv.engine.config.patches import DATA_FILES, patched
from mmkerv.engine.config.write import by_name
from mmkerv.engine.scope import library_of
from mmkerv.errors import ConfigError, InstallationError
from mmkerv.registry import library_configs, package_config

# How mmengine's message on custom_imports begins.
FAILED_IMPORT = 'Failed to import'
SUFFIXES = ('.py', '.json', '.yaml', '.yml')


def load_config(path: str, options: dict[str, Any] | None = None, check: bool = True) -> Config:
    """Read a config and apply ``--cfg-options``.

    A new ``data_root`` also replaces the old one at the start of every path of the data sets and evaluators, because a
    config's variables have already been used when options are applied; the old one of a config without this variable,
    as mmpretrain's are, is that of its data sets. The modules of a new ``custom_imports`` are
    imported. A pure-Python config, whose ``default_scope`` is ``None``, gets that of its model's library. Nothing
    outside the returned config changes.

    Args:
        path: config file, or ``LIBRARY::FILE``, see :func:`config_file`.
        options: dotted keys and their values.
        check: whether operators and hooks are checked; :func:`mmkerv.engine.config.prepare.prepare` does it too.

    Raises:
        FileNotFoundError: if there is no such file.
        ConfigError: if it cannot be read, an option does not fit it, an import fails, an operator does not take its
            arguments, or a hook has been renamed.

    Example:
        >>> load_config('configs/retinanet_r50.py').model.type  # doctest: +SKIP
        'RetinaNet'
    """
    cfg = read_config(path)
    options = options or {}
    old = _data_roots(cfg) if 'data_root' in options else []
    imported = cfg.get('custom_imports')
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, AttributeError) as error:
        settings, reason = ' '.join(f'{k}={v}' for k, v in options.items()), str(error.args[0]).rstrip('.')
        raise ConfigError(
            f'--cfg-options {settings} does not fit {path!r}: {reason}. Change the keys, or write the change into a '
            'config that inherits from this one'
        ) from error
    if cfg.get('custom_imports') != imported:
        _import_modules(cfg.get('custom_imports'))
    check_imports(cfg, path)
    by_name(cfg)
    library = library_of(cfg)
    if library:
        cfg.default_scope = library
    if check:
        check_operators(cfg.get('model'), 'model', cfg.get('default_scope'))
        check_hooks(cfg)
    if 'data_root' in options:
        if len(old) != 1:
            raise ConfigError(
                f'--cfg-options data_root={options["data_root"]} does not fit {path!r}: it has no variable data_root, '
                f'and its data sets have {" and ".join(map(repr, old)) or "none"}. Change the path of each data set, '
                'such as train_dataloader.dataset.data_root'
            )
        new = str(options['data_root']).rstrip('/')
        for key in list(cfg):
            if key.endswith(('_dataloader', '_evaluator', '_pipeline')):
                cfg[key] = _replace_root(cfg[key], old[0].rstrip('/'), new)
    return cfg


def _data_roots(cfg: Config) -> list[str]:
    """Return the ``data_root`` of a config, or where it has no such variable those of its data sets."""
    if cfg.get('data_root'):
        return [cfg.data_root]
    loaders = [(cfg[key], key) for key in cfg if key.endswith('_dataloader')]
    roots = [dataset.get('data_root') for loader in loaders for _, dataset in datasets(*loader)]
    return list(dict.fromkeys(filter(None, roots)))


def _import_modules(imports: Any) -> None:
    """Import what ``--cfg-options`` adds to ``custom_imports``, which mmengine imports only from the file itself."""
    try:
        import_modules_from_strings(**imports)
    # The module that is imported may raise anything.
    except Exception as error:
        raise ConfigError(
            f'--cfg-options custom_imports={imports}: {_described(error, "")}. Correct the module or the option'
        ) from error


def read_config(path: str) -> Config:
    """Read a config file. A Python config is a program and is run; YAML and JSON are data and run nothing.

    Args:
        path: file, or ``LIBRARY::FILE``, see :func:`config_file`.

    Raises:
        ConfigError: naming the file and what is wrong with it: its suffix, its syntax, an error in its code, base
            configs that include one another.
        FileNotFoundError: if it or a base config is not there.
        InstallationError: if a base config's library is not installed.

    Example:
        >>> read_config('configs/retinanet_r50.py').model.type  # doctest: +SKIP
        'RetinaNet'
    """
    path = config_file(path)
    if Path(path).suffix not in SUFFIXES:
        raise ConfigError(f'config {path!r} must end in one of {", ".join(SUFFIXES)}; give a config file')
    try:
        with patched(only=DATA_FILES):
            _refuse_cycle(Path(path), (), set())
            return Config.fromfile(path)
    except (ConfigError, InstallationError):
        raise
    except OSError as error:
        if error.filename is None:
            raise ConfigError(f'config {path!r} cannot be read: {error}') from error
        raise FileNotFoundError(
            f'config {path!r} needs {str(error.filename)!r}, which cannot be read ({error.strerror}). Change its '
            '_base_, or put the file there'
        ) from error
    except RecursionError as error:
        # Cycles of _base_ are found above; mmengine follows those of read_base.
        raise ConfigError(f'config {path!r} cannot be read: its bases by read_base include one another') from error
    # The code in a config may raise anything.
    except Exception as error:
        raise ConfigError(f'config {path!r} cannot be read: {_described(error, path)}. Correct the file') from error


def config_file(path: str) -> str:
    """Return the file of a config that is given by its path, or as ``_base_`` gives those of a library.

    Args:
        path: file, or ``LIBRARY::FILE`` of the configs installed with ``mmdet``, ``mmkerv`` and so on.

    Raises:
        FileNotFoundError: if there is no such file; of a library, with files of similar names.
        ConfigError: if what stands before ``::`` is no library with configs.
        InstallationError: if the library is not installed.

    Example:
        >>> Path(config_file('mmkerv::retinanet_r50.py')).name
        'retinanet_r50.py'
    """
    library, external, inner = path.partition('::')
    if not external:
        require_config(path)
        return path
    if library not in MODULE2PACKAGE:
        meant = ' or '.join(get_close_matches(library, MODULE2PACKAGE)) or ', '.join(LIBRARIES)
        raise ConfigError(f'config {path!r}: {library!r} is no library with configs; write {meant} before ::')
    if library == 'mmkerv':
        return str(package_config(inner))
    _require_package(library)
    if not importable(library):
        raise InstallationError(f'config {path!r}: {library} is not installed; install it, or give the path of a file')
    try:
        return Config._get_cfg_path(path, '')[0]
    # mmengine has no file of that name, or does not find the name well formed.
    except (FileNotFoundError, ValueError) as error:
        folder = library_configs(library)
        files = {file.name: file.relative_to(folder).as_posix() for file in folder.rglob('*.py')}
        near = [f'{library}::{files[name]}' for name in get_close_matches(Path(inner).name, files, n=3, cutoff=0.7)]
        meant = f'; did you mean {" or ".join(near)}?' if near else f'; {library} has its configs in {folder}'
        raise FileNotFoundError(f'config {path!r} does not exist{meant}') from error


def _refuse_cycle(file: Path, above: tuple[Path, ...], checked: set[Path]) -> None:
    """Refuse base configs that include one another: mmengine follows them without end, a second per hundred."""
    file = file.resolve()
    if file in above:
        cycle = ' -> '.join(str(part) for part in (*above[above.index(file) :], file))
        raise ConfigError(f'config {str(above[0])!r} inherits from itself: {cycle}. Change _base_ in one of them')
    # A file that is missing or belongs to another package is left to mmengine.
    if file in checked or not file.is_file():
        return
    for base in Config._get_base_files(str(file)):
        if isinstance(base, str) and '::' in base:
            _require_package(base.partition('::')[0])
        elif isinstance(base, str):
            _refuse_cycle(file.parent / base, (*above, file), checked)
    checked.add(file)


def _require_package(package: str) -> None:
    """Refuse the base config of a library that is not installed: mmengine's advice may name another distribution's."""
    if package in (*LIBRARIES, *OPTIONAL_LIBRARIES) and not importable(package):
        env.require(package, compiled_ops=False)


def _described(error: Exception, path: str) -> str:
    """Return the kind of an error, its line in the config if there is one, and its message."""
    # Some versions of mmengine compile a config without its name.
    files = ('', str(Path(path).absolute()))
    inside = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    line = getattr(error, 'lineno', None) or (inside[-1] if inside else None)
    position = f' (line {line})' if line else ''
    message = ' '.join(str(error.msg if isinstance(error, SyntaxError) else error).split()).rstrip('.')
    if isinstance(error, ImportError) and message.startswith(FAILED_IMPORT):
        # Around the reason mmengine has two errors, the outer of which lists sys.path.
        while isinstance(error.__context__, ImportError):
            error = error.__context__
        message = f'custom_imports: {" ".join(str(error).split()).rstrip(".")}'
        if isinstance(error, ModuleNotFoundError):
            message += (
                '; a module of yours is found if its folder is in PYTHONPATH, as the current one is with PYTHONPATH=.'
            )
    return f'{type(error).__name__}{position}: {message}'


def _replace_root(node: Any, old: str, new: str) -> Any:
    if isinstance(node, str):
        return new + node[len(old) :] if node == old or node.startswith(f'{old}/') else node
    if isinstance(node, dict):
        # Not through mmengine's own access, which turns the imports of a pure-Python config into classes.
        for key, value in list(dict.items(node)):
            dict.__setitem__(node, key, _replace_root(value, old, new))
        return node
    if isinstance(node, (list, tuple)):
        return type(node)(_replace_root(item, old, new) for item in node)
    return node
