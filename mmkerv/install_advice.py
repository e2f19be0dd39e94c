"""Problems of an installation, each with the shell command that fixes it for the running interpreter."""

import shlex
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmkerv.device_code import runs_on
from mmkerv.distributions import (
    LIBRARIES,
    OTHER_MMCV,
    READY_MMCV,
    TESTED,
    TORCH,
    Package,
    distribution,
    importable,
    packages_of,
    version,
)
from mmkerv.gpus import GPU


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


def ready_mmcv() -> str:
    """Return a sentence on Windows' compiled mmcv; empty on other systems."""
    if sys.platform != 'win32':
        return ''
    return (
        f'. For Windows and Python 3.10 there is a compiled one: {READY_MMCV} '
        '(torch 2.8 of CUDA 12.8; its GPU operators need a GPU of 12.0 or later, RTX 50)'
    )


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
        what += ready_mmcv() if 'mmcv' in absent else ''
        problems.append(Problem(what, install(family, absent)))
    elif absent:
        what = f'not installed: {", ".join(absent)}. Two distributions of OpenMMLab provide them, take one'
        what += ready_mmcv() if 'mmcv' in absent else ''
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
    what += ready_mmcv()
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


def unusable_gpu(reason: str) -> Problem:
    """Return the problem of a GPU that torch cannot use.

    Args:
        reason: What `mmkerv.gpus.unusable_gpu` returns.
    """
    return Problem(
        reason, 'install a driver for the CUDA version of torch, or hide the GPU: export CUDA_VISIBLE_DEVICES='
    )


def mmcv_for_other_devices(gpus: Sequence[GPU], code: Sequence[str], packages: Sequence[Package]) -> Problem:
    """Return the problem of an mmcv that has no code for a GPU at hand.

    Args:
        gpus: The GPUs that torch can use.
        code: What mmcv's operators were compiled for, as `mmkerv.device_code` names it.
        packages: The installed packages of OpenMMLab.
    """
    names = ', '.join(sorted({str(gpu) for gpu in gpus if not runs_on(code, gpu.capability)}))
    what = f'the compiled operators of mmcv are for {", ".join(["CPUs", *code])}, not for {names}; detection needs them'
    mmcv = [package for package in packages if package.library == 'mmcv']
    family = mmcv[0].distribution if mmcv else best_distribution()
    architectures = ';'.join(f'{major}.{minor}' for major, minor in sorted({gpu.capability for gpu in gpus}))
    return Problem(what, set_up_again() or compile_for_gpus(family, architectures))


def set_up_again() -> str | None:
    """Return the command that sets this environment up again; None if it is not one of `make setup`."""
    environment = Path(sys.prefix)
    target = {'.venv': 'setup', '.venv-openmmlab': 'setup-openmmlab'}.get(environment.name)
    if target is None or not (environment.parent / 'requirements' / 'install.sh').is_file():
        return None
    return f'cd {shlex.quote(str(environment.parent))} && rm -f {environment.name}/.ready && make {target}'


def compile_for_gpus(family: str, architectures: str) -> str:
    """Return the commands that compile mmcv for GPUs: nvcc first, where the package index has it.

    Args:
        family: `onedl` or `openmmlab`.
        architectures: Value of TORCH_CUDA_ARCH_LIST.

    Example:
        >>> 'TORCH_CUDA_ARCH_LIST=9.0' in compile_for_gpus('onedl', '9.0')
        True
    """
    variables = ['FORCE_CUDA=1', f'TORCH_CUDA_ARCH_LIST={shlex.quote(architectures)}']
    *before, last = install(family, ['mmcv'], reinstall=True).split(' && ')
    toolkit = version('cuda-toolkit')
    if toolkit is None or int(toolkit.partition('.')[0]) < 13:
        # The package of nvcc of CUDA 12 lacks the compiler itself.
        variables.insert(0, 'CUDA_HOME=FOLDER_OF_A_TOOLKIT_OF_THE_CUDA_VERSION_OF_TORCH')
        return ' && '.join([*before, ' '.join(['env', *variables, last])])
    major = toolkit.partition('.')[0]
    home = Path(sysconfig.get_path('purelib'), 'nvidia', f'cu{major}')
    variables.insert(0, f'CUDA_HOME={shlex.quote(str(home))}')
    # The package of the CUDA runtime leaves out the name that the linker looks for.
    link = f'ln -sf libcudart.so.{major} {shlex.quote(str(home / "lib" / "libcudart.so"))}'
    compiler = pip('install', f'cuda-toolkit[nvcc,nvvm,crt,cccl]=={toolkit}')
    return ' && '.join([compiler, link, *before, ' '.join(['env', *variables, last])])


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
