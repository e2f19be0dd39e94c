"""The two distributions of OpenMMLab: the versions mmkerv is tested with, and which of them is installed.

Two families of packages provide the same import names (`mmcv`, `mmdet`, ...): `onedl`, which is maintained, and
`openmmlab`, the original. They overwrite each other's files, so an environment must hold one of them only.

Everything here reads package metadata, about 20 ms in all, and imports no library: `import mmkerv` can afford it.
"""

import functools
import warnings
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

# distribution -> import name -> (package, version)
TESTED = {
    'onedl': {
        'mmengine': ('onedl-mmengine', '0.10.12'),
        'mmcv': ('onedl-mmcv', '2.3.6'),
        'mmdet': ('onedl-mmdetection', '3.5.1'),
        'mmseg': ('onedl-mmsegmentation', '1.4.2'),
        'mmpretrain': ('onedl-mmpretrain', '1.3.6'),
    },
    'openmmlab': {
        'mmengine': ('mmengine', '0.10.7'),
        'mmcv': ('mmcv', '2.1.0'),
        'mmdet': ('mmdet', '3.3.0'),
        'mmseg': ('mmsegmentation', '1.2.2'),
        'mmpretrain': ('mmpretrain', '1.2.0'),
    },
}
# distribution -> package -> version
TORCH = {
    'onedl': {'torch': '2.11.0', 'torchvision': '0.26.0'},
    'openmmlab': {'torch': '2.1.2', 'torchvision': '0.16.2'},
}
LIBRARIES = tuple(TESTED['onedl'])

# Further packages that provide `mmcv`: built without its compiled operators, and the line before mmcv 2.0.
OTHER_MMCV = {'onedl': ('onedl-mmcv-lite',), 'openmmlab': ('mmcv-lite', 'mmcv-full')}


@dataclass(frozen=True)
class Package:
    """An installed package of OpenMMLab.

    Args:
        name: As pip calls it, `onedl-mmdetection`.
        version: As its metadata gives it.
        library: As Python imports it, `mmdet`.
        distribution: `onedl` or `openmmlab`.
    """

    name: str
    version: str
    library: str
    distribution: str

    @property
    def tested(self) -> str:
        """The package and the version in its place that mmkerv is tested with."""
        return ' '.join(TESTED[self.distribution][self.library])

    @property
    def is_tested(self) -> bool:
        """Whether this is the tested package and version; a local part (`2.1.0+cu121`) does not count."""
        return f'{self.name} {self.version.partition("+")[0]}' == self.tested

    def __str__(self) -> str:
        return f'{self.name} {self.version}'


def version(package: str) -> str | None:
    """Return the version of an installed package, None if it is not installed.

    Example:
        >>> version('no-such-package') is None
        True
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def importable(module: str) -> bool:
    """Whether Python finds the top-level `module`; it is not imported.

    Example:
        >>> importable('json'), importable('no_such_module')
        (True, False)
    """
    spec = find_spec(module)
    # A folder that an uninstall left behind is found too, as a namespace package: it has no origin.
    return spec is not None and spec.origin is not None


def installed_packages() -> list[Package]:
    """List the installed packages of OpenMMLab, of both distributions, in the order of `LIBRARIES`.

    Example:
        >>> all(package.library in LIBRARIES for package in installed_packages())
        True
    """
    candidates = [
        (name, library, family)
        for library in LIBRARIES
        for family, table in TESTED.items()
        for name in (table[library][0], *(OTHER_MMCV[family] if library == 'mmcv' else ()))
    ]
    found = ((name, version(name), library, family) for name, library, family in candidates)
    return [Package(*fields) for fields in found if fields[1] is not None]


def distribution() -> str:
    """Name the installed distribution of OpenMMLab: `onedl`, `openmmlab`, `mixture` or `none`.

    A library that is importable but belongs to no installed package (a checkout on PYTHONPATH) does not count.

    Example:
        >>> distribution() in ('onedl', 'openmmlab', 'mixture', 'none')
        True
    """
    families = {package.distribution for package in installed_packages()}
    return 'mixture' if len(families) > 1 else families.pop() if families else 'none'


@functools.cache
def warn_untested() -> None:
    """Warn, once, of packages that mmkerv is not tested with, and of mixed distributions. It never raises.

    Example:
        >>> warn_untested()
    """
    packages = installed_packages()
    if len({package.distribution for package in packages}) > 1:
        names = ', '.join(map(str, packages))
        text = f'two distributions of OpenMMLab are mixed ({names}); `python -m mmkerv.env` prints the cure'
        warnings.warn(text, stacklevel=2)
        return
    untested = [f'{package} (tested: {package.tested})' for package in packages if not package.is_tested]
    if untested:
        warnings.warn(f'mmkerv is not tested with {", ".join(untested)}', stacklevel=2)
