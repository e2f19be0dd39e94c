"""Check of the environment: versions, devices, problems and their fixes; `python -m mmkerv.env` prints it.

The exit status of the command is 1 if a library is missing, unusable, mixed with the other distribution's or built for
other devices than the GPU at hand, or if torch cannot use that GPU, otherwise 0.
"""

import argparse
import ctypes
import importlib
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

from mmkerv import distributions
from mmkerv import install_advice as advice
from mmkerv.device_code import device_code, runs_on
from mmkerv.distributions import LIBRARIES, OPTIONAL_LIBRARIES, TESTED, Package, distribution, warn_untested
from mmkerv.errors import InstallationError
from mmkerv.gpus import Driver, driver, present_gpus, unusable_gpu
from mmkerv.install_advice import Problem
from mmkerv.version import __version__

__all__ = [
    'Environment',
    'Problem',
    'collect_env',
    'distribution',
    'mmcv_ops',
    'problems',
    'require',
    'warn_untested',
]

# Libraries that import mmcv's compiled operators.
NEED_COMPILED_OPS = ('mmdet', 'mmseg', 'mmrotate')


@dataclass(frozen=True)
class Environment:
    """Versions and devices; None if something is not installed.

    Args:
        python: Version of the interpreter.
        executable: Path of the interpreter.
        platform: Operating system and machine.
        distribution: `onedl`, `openmmlab`, `mixture` or `none`.
        packages: The installed packages of OpenMMLab.
        torch: Version of torch.
        torchvision: Version of torchvision.
        numpy: Version of numpy.
        cuda: CUDA version of torch; None for a CPU build too.
        devices: The GPUs that torch can use, with their compute capabilities.
        driver: NVIDIA's driver and its GPUs.
        mmcv_ops: State of mmcv's compiled operators, see `mmcv_ops`.
        association: How CoC associates kernels on a CPU; None without torch.
        mmcv_code: Architectures that they were compiled for, see `mmkerv.device_code`; empty for CPUs.
    """

    python: str
    executable: str
    platform: str
    distribution: str
    packages: tuple[Package, ...]
    torch: str | None
    torchvision: str | None
    numpy: str | None
    cuda: str | None
    devices: tuple[str, ...]
    driver: Driver
    mmcv_ops: str
    association: str | None
    mmcv_code: tuple[str, ...]

    def __str__(self) -> str:
        gpus = ', '.join(self.devices) or 'no GPU visible'
        lines = [
            ('mmkerv', __version__),
            ('python', f'{self.python} ({self.executable})'),
            ('platform', self.platform),
            ('torch', f'{self.torch}, CUDA {self.cuda or "not built in"}, {gpus}' if self.torch else None),
            ('NVIDIA driver', str(self.driver)),
            ('torchvision', self.torchvision),
            ('numpy', self.numpy),
            ('distribution', self.distribution),
        ]
        installed = {package.library for package in self.packages}
        for library in (*LIBRARIES, *(name for name in OPTIONAL_LIBRARIES if name in installed)):
            packages = [
                f'{package} (tested)' if package.is_tested else f'{package} (not tested; {package.tested} is)'
                for package in self.packages
                if package.library == library
            ]
            if not packages and distributions.importable(library):
                packages = [f'from {find_spec(library).origin}, of no installed package']
            lines.append((f'  {library}', ' and '.join(packages)))
        usable = f'available, for {", ".join(["CPUs", *self.mmcv_code])}'
        lines.append(('mmcv operators', usable if self.mmcv_ops == 'available' else self.mmcv_ops))
        lines.append(('CoC on CPUs', self.association))
        return '\n'.join(f'{name:<16}{value or "not installed"}' for name, value in lines)


def mmcv_ops() -> str:
    """Return `available` if mmcv's compiled operators work, otherwise the reason why not.

    torch and mmcv are imported only if the operators' file exists.

    Example:
        >>> isinstance(mmcv_ops(), str)
        True
    """
    if not distributions.importable('mmcv'):
        return 'not installed'
    if operators_file() is None:
        return 'missing: mmcv was built without them'
    try:
        # The operators are linked to torch's libraries, which its import loads.
        importlib.import_module('torch')
        importlib.import_module('mmcv._ext')
    except ImportError as error:
        return f'unusable: {error}'
    return 'available'


def coc_association() -> str:
    """Return how CoC associates kernels on a CPU: by its extension, or by torch's products and why.

    torch is imported, since the extension shares its OpenMP.

    Example:
        >>> coc_association().partition(':')[0] in ('compiled', 'products of torch')
        True
    """
    importlib.import_module('torch')
    folder = Path(__file__).resolve().parent / 'ops' / 'coc'
    files = [folder / f'_association{suffix}' for suffix in EXTENSION_SUFFIXES]
    built = next((file for file in files if file.exists()), None)
    if not built:
        return 'products of torch: the extension was not built, for want of a C compiler with OpenMP'
    try:
        ctypes.CDLL(str(built))
    except OSError as error:
        return f'products of torch: {error}'
    return 'compiled'


def operators_file() -> Path | None:
    """Return the library of mmcv's compiled operators; None if there is none.

    Example:
        >>> operators_file() is None or operators_file().is_file()
        True
    """
    if not distributions.importable('mmcv'):
        return None
    folder = Path(find_spec('mmcv').origin).parent
    files = [folder / f'_ext{suffix}' for suffix in EXTENSION_SUFFIXES]
    return next((file for file in files if file.is_file()), None)


def gpu_problem(detection: bool = True) -> Problem | None:
    """Return why a GPU at hand cannot be used, by torch or by mmcv's operators; None if it can, or there is none.

    Args:
        detection: Whether mmcv's operators count: networks of mmdet need them on the GPU.

    Example:
        >>> gpu_problem() is None or gpu_problem().command != ''
        True
    """
    if not distributions.importable('torch'):
        return None
    if reason := unusable_gpu():
        return advice.unusable_gpu(reason)
    if not detection or mmcv_ops() != 'available':
        return None
    gpus, code = present_gpus(), device_code(operators_file())
    if all(runs_on(code, gpu.capability) for gpu in gpus):
        return None
    return advice.mmcv_for_other_devices(gpus, code, distributions.installed_packages())


def collect_env() -> Environment:
    """Collect versions and devices. Imports torch and mmcv if they are installed.

    Example:
        >>> collect_env().executable == sys.executable
        True
    """
    cuda, devices, association, operators = None, (), None, operators_file()
    if distributions.importable('torch'):
        import torch

        association = coc_association()
        cuda, devices = torch.version.cuda, tuple(map(str, present_gpus()))
    return Environment(
        python=platform.python_version(),
        executable=sys.executable,
        platform=platform.platform(),
        distribution=distribution(),
        packages=tuple(distributions.installed_packages()),
        torch=distributions.version('torch'),
        torchvision=distributions.version('torchvision'),
        numpy=distributions.version('numpy'),
        cuda=cuda,
        devices=devices,
        driver=driver(),
        mmcv_ops=mmcv_ops(),
        association=association,
        mmcv_code=() if operators is None else device_code(operators),
    )


def problems(*libraries: str, compiled_ops: bool | None = None) -> list[Problem]:
    """List the problems that keep `libraries` from working, each with the command that fixes it.

    Args:
        *libraries: Import names out of `LIBRARIES`, all by default, or `OPTIONAL_LIBRARIES`; those that they need
            (mmengine and mmcv, mmdet for mmrotate) are added.
        compiled_ops: Whether mmcv's compiled operators are needed; `None`: if mmdet, mmseg or mmrotate is, which import
            them. Classification works without, with the package mmcv-lite.

    Raises:
        ValueError: If a name is none of these.

    Example:
        >>> for problem in problems('mmdet'):
        ...     print(problem.what, problem.command)
    """
    known = (*LIBRARIES, *OPTIONAL_LIBRARIES)
    unknown = [library for library in libraries if library not in known]
    if unknown:
        raise ValueError(f'libraries must be out of {", ".join(known)}, got {", ".join(map(repr, unknown))}')
    needed = set(libraries or LIBRARIES)
    needed |= {distributions.BUILT_ON[library] for library in needed if library in distributions.BUILT_ON}
    if needed != {'mmengine'}:
        needed |= {'mmcv', 'mmengine'}
    if compiled_ops is None:
        compiled_ops = not needed.isdisjoint(NEED_COMPILED_OPS)
    packages, family = distributions.installed_packages(), distribution()

    result = []
    if not distributions.importable('torch'):
        result.append(Problem('torch is not installed', advice.install_torch(family if family in TESTED else 'onedl')))
    if family == 'mixture':
        return [*result, advice.mixture(packages)]
    missing = [library for library in known if library in needed and not distributions.importable(library)]
    result += advice.missing_libraries(missing, packages)
    companions = advice.missing_companions() if family == 'openmmlab' else []
    result += companions
    # If torch, mmengine, mmcv or a companion is missing, mmcv's operators fail as a consequence: no problem of its own.
    can_import_mmcv = distributions.importable('torch') and not companions and not {'mmcv', 'mmengine'} & set(missing)
    if compiled_ops and 'mmcv' in needed and can_import_mmcv and (state := mmcv_ops()) != 'available':
        result.append(advice.unusable_mmcv(state, packages))
    return result


def require(*libraries: str, compiled_ops: bool | None = None) -> None:
    """Raise an error if `libraries` cannot work here; tools call it before they import anything large.

    Args:
        *libraries: See `problems`.
        compiled_ops: See `problems`.

    Raises:
        InstallationError: If something is missing, unusable or mixed. The message has the command that fixes it.
        ValueError: If a name is no library's.

    Example:
        >>> try:
        ...     require('mmdet')
        ... except InstallationError as error:
        ...     print(error)
    """
    if not (found := problems(*libraries, compiled_ops=compiled_ops)):
        return
    if inactive := inactive_environment(found, libraries):
        raise InstallationError(f'{inactive.what}. Type: {inactive.command}')
    raise InstallationError('\n'.join(map(str, found)))


def inactive_environment(found: Sequence[Problem], libraries: Sequence[str]) -> Problem | None:
    """Return the one problem in place of all others if the environment of this checkout has what this Python lacks.

    The fixes of the others would install into a Python that was not meant.

    Args:
        found: The problems of this Python.
        libraries: Import names of what is needed besides torch.

    Example:
        >>> inactive_environment([], ['mmdet'])
    """
    if not found or all(map(distributions.importable, ('torch', *libraries))):
        return None
    if not (folder := environment_beside()):
        return None
    # Advice follows in further sentences.
    lacking = '; '.join(problem.what.partition('. ')[0] for problem in found)
    what = f'the environment of this checkout is not active, and {sys.executable} cannot run this: {lacking}'
    return Problem(what, f'source {shlex.quote(str(folder / "bin" / "activate"))}')


def environment_beside(checkout: Path | None = None) -> Path | None:
    """Return the virtual environment in a checkout if it has the libraries and no virtual environment is active.

    Args:
        checkout: folder; that of mmkerv by default.

    Example:
        >>> print(environment_beside(Path('no_such_folder')))
        None
    """
    if sys.prefix != sys.base_prefix:
        return None
    for folder in sorted((checkout or Path(__file__).resolve().parents[1]).glob('.venv*')):
        if (folder / 'bin' / 'activate').is_file() and any(folder.glob('lib/python*/site-packages/mmengine')):
            return folder
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Print the environment and its problems; return the exit status.

    Example:
        >>> status = main(['mmengine'])
        mmkerv...
    """
    parser = argparse.ArgumentParser(
        prog='mmkerv env',
        description='Print the environment of mmkerv, its problems and the commands that fix them.',
    )
    parser.add_argument(
        'libraries',
        nargs='*',
        metavar='LIBRARY',
        help=f'libraries to check: {", ".join(LIBRARIES)} (default: all), {", ".join(OPTIONAL_LIBRARIES)}',
    )
    try:
        libraries = parser.parse_args(argv).libraries
        found = problems(*libraries)
    except ValueError as error:
        parser.error(str(error))
    if inactive := inactive_environment(found, libraries or LIBRARIES):
        found = [inactive]
    print(collect_env())
    # Not among problems(): many networks work without these operators, so tools do not refuse.
    if not found and (problem := gpu_problem(detection='mmdet' in (libraries or LIBRARIES))):
        found.append(problem)
    for problem in found:
        print(f'\nproblem: {problem}')
    if not found:
        print('\nno problem found')
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
