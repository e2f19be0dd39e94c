"""Find the config files that come with mmkerv: in the installed package, or in the checkout it is imported from.

It imports nothing large.
"""

from fnmatch import fnmatch
from pathlib import Path

from mmkerv.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent
# An installed package has them in .mim, where OpenMMLab's tools look; a clone that was not installed at its top.
FOLDERS = (PACKAGE / '.mim' / 'configs', PACKAGE.parent / 'configs')


def config_name(config: str) -> str:
    """Return the name of a config without folder, library and ending, for files and folders that are called after it.

    Args:
        config: file, or ``LIBRARY::FILE``.

    Example:
        >>> config_name('configs/retinanet_r50.py'), config_name('mmkerv::retinanet_r50.py')
        ('retinanet_r50', 'retinanet_r50')
    """
    return Path(config.rpartition('::')[2]).stem


def require_config(config: str) -> None:
    """Refuse a config file that does not exist; ``LIBRARY::FILE`` is looked up where it is read.

    Raises:
        FileNotFoundError: naming it.

    Example:
        >>> require_config('mmkerv::retinanet_r50.py')
    """
    if '::' not in config and not Path(config).is_file():
        what = 'is a folder' if Path(config).is_dir() else 'does not exist'
        raise FileNotFoundError(f'config {config!r} {what}; give the path of a config file')


def config_folder() -> Path:
    """Return the folder of the configs.

    Raises:
        ConfigError: if this installation has none, with what to do.

    Example:
        >>> (config_folder() / 'retinanet_r50.py').is_file()
        True
    """
    for folder in FOLDERS:
        if (folder / '_base_').is_dir():
            return folder
    raise ConfigError(
        f'this installation of mmkerv has no configs: neither {FOLDERS[0]} nor {FOLDERS[1]} is there. Install a wheel '
        'that was built from the repository, which copies them, or work in a clone: pip install -e CLONE'
    )


def list_configs(pattern: str = '*') -> list[str]:
    """Return the configs whose path matches a pattern, as ``'imagenet/resnet50_coc.py'``.

    Args:
        pattern: shell pattern, compared with the path below ``configs`` and with the file's name; without ``*``, ``?``
            and ``[`` it matches any part of the path.

    Returns:
        Paths below :func:`config_folder`, sorted; those that other configs are made of (``_base_``) are left out. To
        inherit from one, write ``_base_ = 'mmkerv::PATH'``.

    Raises:
        ConfigError: if this installation has no configs.

    Example:
        >>> list_configs('retinanet_r50_c*')
        ['retinanet_r50_ck.py', 'retinanet_r50_coc.py', 'retinanet_r50_coc_scratch.py']
    """
    wanted = pattern if any(c in pattern for c in '*?[') else f'*{pattern}*'
    folder = config_folder()
    files = sorted(file.relative_to(folder) for file in folder.rglob('*.py'))
    return [
        path.as_posix()
        for path in files
        if '_base_' not in path.parts and any(fnmatch(text, wanted) for text in (path.as_posix(), path.name, path.stem))
    ]
