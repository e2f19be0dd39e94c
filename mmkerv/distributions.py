"""The two distributions of OpenMMLab: tested versions and installed packages.

Two families of packages provide the same import names (`mmcv`, `mmdet`, ...): `onedl`, which is maintained, and
`openmmlab`, the original. They overwrite each other's files, so an environment must have one of them only.

The functions read package metadata, about 20 ms in all, and import no library, so `import mmkerv` can call them.
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
# As TESTED: libraries that nothing here needs. The original distribution has no mmrotate for its mmdet.
OPTIONAL = {'onedl': {'mmrotate': ('onedl-mmrotate', '1.2.1')}, 'openmmlab': {}}
# Libraries whose networks are made of the parts of another one, which they need.
BUILT_ON = {'mmrotate': 'mmdet'}
# distribution -> package -> version
TORCH = {
    'onedl': {'torch': '2.11.0', 'torchvision': '0.26.0'},
    'openmmlab': {'torch': '2.1.2', 'torchvision': '0.16.2'},
}
LIBRARIES = tuple(TESTED['onedl'])
OPTIONAL_LIBRARIES = tuple(OPTIONAL['onedl'])

# A compiled mmcv for Windows and Python 3.10, the only one in the package index: for torch 2.8, CPUs, and GPUs of 12.0.
READY_MMCV = 'onedl-mmcv-cu128-torch2-8'
# Other packages that provide `mmcv`: compiled ones, those without its compiled operators, and mmcv before 2.0.
OTHER_MMCV = {'onedl': ('onedl-mmcv-lite', READY_MMCV), 'openmmlab': ('mmcv-lite', 'mmcv-full')}
# Those of them that classification is tested with, at the version of the whole mmcv.
TESTED_LITE = ('mmcv-lite',)


@dataclass(frozen=True)
class Package:
    """An installed package of OpenMMLab.

    Args:
        name: Name for pip, such as `onedl-mmdetection`.
        version: Version in its metadata.
        library: Import name, such as `mmdet`.
        distribution: `onedl` or `openmmlab`.
    """

    name: str
    version: str
    library: str
    distribution: str

    @property
    def tested(self) -> str:
        """Name and version of the package that mmkerv is tested with for this library."""
        name, number = packages_of(self.distribution)[self.library]
        return f'{self.name if self.name in TESTED_LITE else name} {number}'

    @property
    def is_tested(self) -> bool:
        """Return ``True`` for the tested package and version, apart from a local part (`2.1.0+cu121`)."""
        return f'{self.name} {self.version.partition("+")[0]}' == self.tested

    def __str__(self) -> str:
        return f'{self.name} {self.version}'


def packages_of(family: str) -> dict[str, tuple[str, str]]:
    """Return package and version of every library, also the optional ones, that a distribution is tested with.

    Args:
        family: `onedl` or `openmmlab`.

    Example:
        >>> packages_of('onedl')['mmrotate'][0], 'mmrotate' in packages_of('openmmlab')
        ('onedl-mmrotate', False)
    """
    return {**TESTED[family], **OPTIONAL[family]}


def version(package: str) -> str | None:
    """Return the version of a package, None if it is not installed.

    Example:
        >>> version('no-such-package') is None
        True
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def importable(module: str) -> bool:
    """Return whether Python finds a top-level module, without importing it.

    Example:
        >>> importable('json'), importable('no_such_module')
        (True, False)
    """
    spec = find_spec(module)
    # A folder left behind by an uninstall is found as a namespace package, which has no origin.
    return spec is not None and spec.origin is not None


def installed_packages() -> list[Package]:
    """List the installed packages of OpenMMLab, of both distributions, in the order of `LIBRARIES`, then optional ones.

    Example:
        >>> all(package.library in (*LIBRARIES, *OPTIONAL_LIBRARIES) for package in installed_packages())
        True
    """
    candidates = [
        (name, library, family)
        for library in (*LIBRARIES, *OPTIONAL_LIBRARIES)
        for family in TESTED
        if library in packages_of(family)
        for name in (packages_of(family)[library][0], *(OTHER_MMCV[family] if library == 'mmcv' else ()))
    ]
    found = ((name, version(name), library, family) for name, library, family in candidates)
    return [Package(*fields) for fields in found if fields[1] is not None]


def distribution() -> str:
    """Return the installed distribution of OpenMMLab: `onedl`, `openmmlab`, `mixture` or `none`.

    A library that is importable but belongs to no installed package (a checkout on PYTHONPATH) does not count.

    Example:
        >>> distribution() in ('onedl', 'openmmlab', 'mixture', 'none')
        True
    """
    families = {package.distribution for package in installed_packages()}
    if len(families) > 1:
        return 'mixture'
    return families.pop() if families else 'none'


@functools.cache
def warn_untested() -> None:
    """Warn once of packages that mmkerv is not tested with, or of mixed distributions; never raises.

    Example:
        >>> warn_untested()
    """
    packages = installed_packages()
    if len({package.distribution for package in packages}) > 1:
        names = ', '.join(map(str, packages))
        text = f'two distributions of OpenMMLab are mixed ({names}); `python -m mmkerv.env` prints how to fix it'
        warnings.warn(text, stacklevel=2)
        return
    untested = [f'{package} (tested: {package.tested})' for package in packages if not package.is_tested]
    if untested:
        warnings.warn(f'mmkerv is not tested with {", ".join(untested)}', stacklevel=2)
