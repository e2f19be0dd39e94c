"""What may be wrong with an installation, and the shell command, for the running interpreter, that cures it."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from mmkerv.distributions import LIBRARIES, OTHER_MMCV, TESTED, TORCH, Package, distribution, importable, version


@dataclass(frozen=True)
class Problem:
    """Something that stops mmkerv's tools, and the shell command that cures it."""

    what: str
    cure: str

    def __str__(self) -> str:
        return f'{self.what}\n  cure: {self.cure}'


def pip(*arguments: str) -> str:
    """Write a pip command for this interpreter; environments made by uv hold no pip, so it is `uv pip` there.

    Example:
        >>> 'numpy<2' in shlex.split(pip('install', 'numpy<2'))
        True
    """
    if importable('pip'):
        return shlex.join([sys.executable, '-m', 'pip', *arguments])
    # uv takes its options after the command, and never asks for confirmation.
    command, *rest = (argument for argument in arguments if argument != '-y')
    return shlex.join(['uv', 'pip', command, '--python', sys.executable, *rest])


def install_torch(family: str) -> str:
    """Write the command that installs the torch that a distribution, `onedl` or `openmmlab`, is tested with.

    Example:
        >>> 'torch==2.11.0' in install_torch('onedl')
        True
    """
    return pip('install', *(f'{package}=={number}' for package, number in TORCH[family].items()))


def install(family: str, libraries: Sequence[str], reinstall: bool = False) -> str:
    """Write the commands that install `libraries`, given by import name, of a distribution.

    Args:
        family: `onedl` or `openmmlab`.
        libraries: Import names out of `mmkerv.distributions.LIBRARIES`.
        reinstall: Whether to replace what is there, without touching its dependencies.

    Example:
        >>> 'onedl-mmdetection==' in install('onedl', ['mmdet'])
        True
    """
    pins = ['=='.join(TESTED[family][library]) for library in libraries]
    again = ('--force-reinstall', '--no-deps') if reinstall else ()
    if 'mmcv' not in libraries:
        return pip('install', *again, *pins)
    # mmcv is compiled against the torch that is there. Built in isolation, without torch, it lacks its operators and
    # says nothing; such a build may also lie in pip's cache.
    numpy, setuptools = ('numpy<2', 'setuptools<81') if family == 'openmmlab' else ('numpy', 'setuptools')
    mmcv = TESTED[family]['mmcv'][0]
    return ' && '.join(
        [
            *([] if importable('torch') else [install_torch(family)]),
            pip('install', numpy, setuptools, 'wheel', 'packaging', 'ninja', 'psutil'),
            pip('install', *again, '--no-build-isolation', '--no-cache-dir', '--no-binary', mmcv, *pins),
        ]
    )


def best_distribution() -> str:
    """The distribution that suits the installed torch: onedl needs 2.4."""
    torch = version('torch')
    old = torch is not None and tuple(int(number) for number in torch.split('.')[:2]) < (2, 4)
    return 'openmmlab' if old else 'onedl'


def mixture(packages: Sequence[Package]) -> Problem:
    """The problem of `packages` that come from both distributions."""
    # They share folders, so removing one leaves holes in the other: both go, and one comes back.
    remove = pip('uninstall', '-y', *(package.name for package in packages))
    libraries = [library for library in LIBRARIES if library in {package.library for package in packages}]
    return Problem(
        'two distributions of OpenMMLab, onedl and openmmlab, are mixed and overwrite each other: '
        + ', '.join(map(str, packages)),
        f'{remove} && {install(best_distribution(), libraries)}',
    )


def missing_libraries(libraries: Sequence[str], packages: Sequence[Package]) -> list[Problem]:
    """The problems of `libraries` that Python does not find."""
    family, found = distribution(), []
    gone = [library for library in libraries if library in {package.library for package in packages}]
    if gone:
        cure = install(family, gone, reinstall=True)
        found.append(Problem(f'installed, but their files are gone: {", ".join(gone)}', cure))
    never = [library for library in libraries if library not in gone]
    if never and family in TESTED:
        what = f'not installed: {", ".join(never)} (of the distribution {family})'
        found.append(Problem(what, install(family, never)))
    elif never:
        what = f'not installed: {", ".join(never)}. Two distributions of OpenMMLab provide them, take one'
        choices = [f'{name}: {install(name, never)}' for name in TESTED]
        found.append(Problem(what, '\n    '.join(['', *choices])))
    return found


def unusable_mmcv(state: str, packages: Sequence[Package]) -> Problem:
    """The problem of an mmcv whose compiled operators are not there or do not load, as `state` says."""
    what = f'the compiled operators of mmcv are {state}. Detection and segmentation need them'
    if 'libGL' in state:
        headless = pip('install', '--force-reinstall', '--no-deps', 'opencv-python-headless')
        return Problem(what, f'{pip("uninstall", "-y", "opencv-python")} && {headless}')
    mmcv = [package for package in packages if package.library == 'mmcv']
    if mmcv and 'No module named' in state:
        # Something mmcv asks for is missing: pip leaves mmcv as it is and adds that.
        return Problem(what, pip('install', f'{mmcv[0].name}=={mmcv[0].version}'))
    family = mmcv[0].distribution if mmcv else best_distribution()
    others = [package.name for package in mmcv if package.name in OTHER_MMCV[family]]
    remove = f'{pip("uninstall", "-y", *others)} && ' if others else ''
    return Problem(what, remove + install(family, ['mmcv'], reinstall=True))


def mmcv_without_cuda(packages: Sequence[Package]) -> Problem:
    """The problem of an mmcv that was compiled where torch saw no GPU, and runs where it sees one."""
    problem = unusable_mmcv('without CUDA', packages)
    return Problem(
        f'{problem.what} on this GPU; to compile them takes nvcc, of the CUDA version of torch', problem.cure
    )


def openmmlab_companions() -> list[Problem]:
    """The problems of what the libraries of openmmlab use and do not ask for."""
    found = []
    numpy = version('numpy')
    if numpy is not None and int(numpy.partition('.')[0]) >= 2:
        found.append(Problem(f'numpy {numpy}: the openmmlab distribution needs numpy < 2', pip('install', 'numpy<2')))
    # setuptools 82 removed pkg_resources.
    uses = [('mmengine', 'pkg_resources', 'setuptools<81'), ('mmseg', 'ftfy', 'ftfy'), ('mmseg', 'regex', 'regex')]
    for library, module, requirement in uses:
        if importable(library) and not importable(module):
            what = f'{module} is missing: {library} of the openmmlab distribution imports it and does not ask for it'
            found.append(Problem(what, pip('install', requirement)))
    return found
