"""Problems of an installation, each with the shell command that fixes it for the running interpreter."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from mmkerv.distributions import (
    LIBRARIES,
    OTHER_MMCV,
    TESTED,
    TORCH,
    Package,
    distribution,
    importable,
    packages_of,
    version,
)


@dataclass(frozen=True)
class Problem:
    """Problem that keeps mmkerv's tools from working, and the shell command that fixes it."""

    what: str
    command: str

    def __str__(self) -> str:
        return f'{self.what}\n  fix: {self.command}'


def pip(*arguments: str) -> str:
    """Return a pip command for this interpreter, or a `uv pip` command if the environment, made by uv, has no pip.

    Example:
        >>> 'numpy<2' in shlex.split(pip('install', 'numpy<2'))
        True
    """
    if importable('pip'):
        return shlex.join([sys.executable, '-m', 'pip', *arguments])
    # uv takes options after the command, and has no -y because it never asks for confirmation.
    command, *rest = (argument for argument in arguments if argument != '-y')
    return shlex.join(['uv', 'pip', command, '--python', sys.executable, *rest])


def install_torch(family: str) -> str:
    """Return the command that installs the torch that a distribution, `onedl` or `openmmlab`, is tested with.

    Example:
        >>> 'torch==2.11.0' in install_torch('onedl')
        True
    """
    return pip('install', *(f'{package}=={number}' for package, number in TORCH[family].items()))


def install(family: str, libraries: Sequence[str], reinstall: bool = False) -> str:
    """Return the commands that install libraries of a distribution.

    Args:
        family: `onedl` or `openmmlab`.
        libraries: Import names of what the distribution has.
        reinstall: Whether to replace installed packages, without touching their dependencies.

    Example:
        >>> 'onedl-mmdetection==' in install('onedl', ['mmdet'])
        True
    """
    pins = ['=='.join(packages_of(family)[library]) for library in libraries]
    again = ('--force-reinstall', '--no-deps') if reinstall else ()
    if 'mmcv' not in libraries:
        return pip('install', *again, *pins)
    # mmcv is compiled against the installed torch. Built in isolation, without torch, it silently lacks its operators;
    # pip's cache may hold such a build.
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
    """Return the distribution that suits the installed torch: onedl needs torch 2.4 or later."""
    torch = version('torch')
    old = torch is not None and tuple(int(number) for number in torch.split('.')[:2]) < (2, 4)
    return 'openmmlab' if old else 'onedl'


def mixture(packages: Sequence[Package]) -> Problem:
    """Return the problem of `packages` from both distributions."""
    # They share folders, so uninstalling one removes files of the other: uninstall both, then install one.
    remove = pip('uninstall', '-y', *(package.name for package in packages))
    libraries = [library for library in LIBRARIES if library in {package.library for package in packages}]
    return Problem(
        'two distributions of OpenMMLab, onedl and openmmlab, are mixed and overwrite each other: '
        + ', '.join(map(str, packages)),
        f'{remove} && {install(best_distribution(), libraries)}',
    )


def missing_libraries(libraries: Sequence[str], packages: Sequence[Package]) -> list[Problem]:
    """Return the problems of `libraries` that Python does not find."""
    family, problems = distribution(), []
    installed = {package.library for package in packages}
    broken = [library for library in libraries if library in installed]
    if broken:
        what = f'installed, but their files are gone: {", ".join(broken)}'
        problems.append(Problem(what, install(family, broken, reinstall=True)))
    absent = [library for library in libraries if library not in installed]
    if family == 'openmmlab' and (lacking := [library for library in absent if library not in packages_of(family)]):
        what = f'not installed: {", ".join(lacking)}, of which the distribution openmmlab has no version for its mmdet'
        problems.append(Problem(what, 'take another environment, with the distribution onedl'))
        absent = [library for library in absent if library not in lacking]
    if absent and family in TESTED:
        what = f'not installed: {", ".join(absent)} (of the distribution {family})'
        problems.append(Problem(what, install(family, absent)))
    elif absent:
        what = f'not installed: {", ".join(absent)}. Two distributions of OpenMMLab provide them, take one'
        choices = [f'{name}: {install(name, absent)}' for name in TESTED if {*absent} <= {*packages_of(name)}]
        problems.append(Problem(what, '\n    '.join(['', *choices])))
    return problems


def unusable_mmcv(state: str, packages: Sequence[Package]) -> Problem:
    """Return the problem of an mmcv whose compiled operators are missing or do not load.

    Args:
        state: The reason, as `mmkerv.env.mmcv_ops` returns it.
        packages: The installed packages of OpenMMLab.
    """
    what = f'the compiled operators of mmcv are {state}. Detection and segmentation need them'
    if 'libGL' in state:
        headless = pip('install', '--force-reinstall', '--no-deps', 'opencv-python-headless')
        return Problem(what, f'{pip("uninstall", "-y", "opencv-python")} && {headless}')
    mmcv = [package for package in packages if package.library == 'mmcv']
    if mmcv and 'No module named' in state:
        # A dependency of mmcv is missing: pip installs it and leaves mmcv as it is.
        return Problem(what, pip('install', f'{mmcv[0].name}=={mmcv[0].version}'))
    family = mmcv[0].distribution if mmcv else best_distribution()
    others = [package.name for package in mmcv if package.name in OTHER_MMCV[family]]
    remove = f'{pip("uninstall", "-y", *others)} && ' if others else ''
    return Problem(what, remove + install(family, ['mmcv'], reinstall=True))


def mmcv_without_cuda(packages: Sequence[Package]) -> Problem:
    """Return the problem of an mmcv that was compiled without a GPU and runs on a machine with one."""
    problem = unusable_mmcv('without CUDA', packages)
    return Problem(
        f'{problem.what} on this GPU; to compile them takes nvcc, of the CUDA version of torch', problem.command
    )


def missing_companions() -> list[Problem]:
    """Return the problems of packages that the openmmlab libraries import but do not declare as dependencies."""
    problems = []
    numpy = version('numpy')
    if numpy is not None and int(numpy.partition('.')[0]) >= 2:
        what = f'numpy {numpy}: the openmmlab distribution needs numpy < 2'
        problems.append(Problem(what, pip('install', 'numpy<2')))
    # setuptools 82 removed pkg_resources.
    uses = [('mmengine', 'pkg_resources', 'setuptools<81'), ('mmseg', 'ftfy', 'ftfy'), ('mmseg', 'regex', 'regex')]
    for library, module, requirement in uses:
        if importable(library) and not importable(module):
            what = f'{module} is missing: {library} of the openmmlab distribution imports but does not require it'
            problems.append(Problem(what, pip('install', requirement)))
    return problems
