"""What mmcv is compiled for on this machine, and the wheels of it; install.sh calls this with the environment's Python.

    mmcv_build.py plan                     five lines: target, TORCH_CUDA_ARCH_LIST, compiler, jobs, sentence
    mmcv_build.py toolkit ARCHITECTURES    check nvcc and print its CUDA_HOME
    mmcv_build.py has TARGET PACKAGE       is the installed mmcv compiled for it? exit status 0 or 1
    mmcv_build.py find TARGET PACKAGE      print the folder in MMKERV_WHEELS that holds a wheel for it, or nothing
    mmcv_build.py keep TARGET PACKAGE      put a wheel of the installed mmcv into MMKERV_WHEELS

A target is `cpu` or, for example, `cuda13.0-sm_80-sm_90-compute_90`; PACKAGE is a pin such as `onedl-mmcv==2.3.6`.
"""

import base64
import csv
import hashlib
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mmkerv.device_code import device_code
from mmkerv.errors import InstallationError
from mmkerv.gpus import GPU, present_gpus, unusable_gpu

# For GPUs that are not at hand: machine code for each generation since Turing, which serves later members of the
# generation too, and PTX for those to come.
DEFAULT_ARCHITECTURES = {'12': '7.0;7.5;8.0;9.0+PTX', '13': '7.5;8.0;9.0;10.0;12.0+PTX'}
# The compiler, for the CUDA versions whose nvcc the package index has, as extras of the package cuda-toolkit.
COMPILER = 'cuda-toolkit[nvcc,nvvm,crt,cccl]'
INDEXED_CUDA = ('13',)
# Minutes of one core: mmcv for CPUs; what CUDA adds; and each architecture. 31 minutes were measured for one
# architecture on two cores.
CPU_MINUTES, CUDA_MINUTES, ARCHITECTURE_MINUTES = 5, 52, 5
JOB_BYTES = 2 << 30
# In the wheel, in its .dist-info: what it was compiled for.
STAMP = 'mmkerv_build.json'
# Written by installers, not part of a wheel.
INSTALLED = ('RECORD', 'INSTALLER', 'REQUESTED', 'direct_url.json', 'uv_build.json', 'uv_cache.json')


@dataclass(frozen=True)
class Plan:
    """What to compile mmcv for.

    Args:
        target: `cpu`, or CUDA version and architectures.
        architectures: Value of TORCH_CUDA_ARCH_LIST; empty for CPUs.
        compiler: Requirement that installs nvcc; empty if it is at hand or not needed.
        sentence: Says it to the user.
    """

    target: str
    architectures: str
    compiler: str
    sentence: str


def plan(
    torch_version: str,
    cuda: str | None,
    gpus: Sequence[GPU],
    unseen: str | None = None,
    variables: Mapping[str, str] = os.environ,
) -> Plan:
    """Decide what mmcv is compiled for; mmcv's own build decides the same between CPUs and CUDA.

    Args:
        torch_version: Version of torch.
        cuda: CUDA version of torch.
        gpus: The GPUs that torch sees.
        unseen: Why torch cannot use a GPU that nvidia-smi lists.
        variables: The environment variables: FORCE_CUDA, TORCH_CUDA_ARCH_LIST, CUDA_HOME, PATH.

    Raises:
        InstallationError: If operators for GPUs are asked for and cannot be compiled.
    """
    forced, wanted = variables.get('FORCE_CUDA') == '1', variables.get('TORCH_CUDA_ARCH_LIST', '')
    if not gpus and not forced:
        reasons = [unseen or 'torch sees no GPU']
        if wanted:
            reasons.append('TORCH_CUDA_ARCH_LIST has an effect with a GPU or FORCE_CUDA=1 alone')
        return Plan('cpu', '', '', f'mmcv is compiled for CPUs ({"; ".join(reasons)})')
    if cuda is None:
        raise InstallationError(
            f'FORCE_CUDA=1, but torch {torch_version} has no CUDA; unset FORCE_CUDA to compile mmcv for CPUs'
        )
    major = cuda.partition('.')[0]
    if wanted and wanted != 'native':
        architectures, why = parse_architectures(wanted), 'TORCH_CUDA_ARCH_LIST'
    elif gpus:
        present = sorted({gpu.capability for gpu in gpus})
        architectures, why = ['.'.join(map(str, capability)) for capability in present], 'the GPUs of this machine'
    elif major in DEFAULT_ARCHITECTURES:
        architectures = parse_architectures(DEFAULT_ARCHITECTURES[major])
        why = 'the default, since no GPU is visible: TORCH_CUDA_ARCH_LIST replaces it'
    else:
        raise InstallationError(
            f'FORCE_CUDA=1 without a GPU, and no default for CUDA {cuda}: name the architectures of the GPUs, '
            "for example TORCH_CUDA_ARCH_LIST='8.0;9.0'"
        )
    own = variables.get('CUDA_HOME') or (
        major not in INDEXED_CUDA and shutil.which('nvcc', path=variables.get('PATH', ''))
    )
    if not own and (major not in INDEXED_CUDA or sys.platform != 'linux'):
        raise InstallationError(
            f'torch {torch_version}: compiling mmcv for its GPUs needs nvcc of CUDA {cuda}, which the package index '
            'does not have for this system. Install the CUDA toolkit of that version and set CUDA_HOME to its folder; '
            'or compile for CPUs: CUDA_VISIBLE_DEVICES= FORCE_CUDA=0 make setup (or setup-openmmlab)'
        )
    return Plan(
        target='-'.join([f'cuda{cuda}', *codes(architectures)]),
        architectures=';'.join(architectures),
        compiler='' if own else f'{COMPILER}=={toolkit_version(cuda)}',
        sentence=f'mmcv is compiled for CUDA {cuda}, architectures {" ".join(architectures)} ({why})',
    )


def parse_architectures(text: str) -> list[str]:
    """Return the entries of TORCH_CUDA_ARCH_LIST, which may be separated by semicolons, spaces or commas.

    Raises:
        InstallationError: If an entry is no version, or there is none.
    """
    entries = [entry for entry in re.split(r'[;,\s]+', text) if entry]
    for entry in entries or [text]:
        if not re.fullmatch(r'\d+\.\d[af]?(\+PTX)?', entry):
            raise InstallationError(
                f'TORCH_CUDA_ARCH_LIST: {entry!r} is no architecture; write versions such as 8.0 or 9.0+PTX, separated '
                "by semicolons (a GPU's: nvidia-smi --query-gpu=compute_cap --format=csv)"
            )
    return sorted(set(entries), key=lambda entry: [int(number) for number in re.findall(r'\d+', entry)])


def codes(architectures: Sequence[str]) -> list[str]:
    """Return the names of the code that nvcc makes: `9.0+PTX` gives `sm_90` and `compute_90`."""
    versions = [entry.removesuffix('+PTX').replace('.', '') for entry in architectures]
    ptx = [version for entry, version in zip(architectures, versions) if entry.endswith('+PTX')]
    return [*(f'sm_{version}' for version in versions), *(f'compute_{version}' for version in ptx)]


def toolkit_version(cuda: str) -> str:
    """Return the version of the package cuda-toolkit that fits the libraries which torch has brought along."""
    try:
        return metadata.version('cuda-toolkit')
    except metadata.PackageNotFoundError:
        return f'{cuda}.*'


def jobs(variables: Mapping[str, str] = os.environ) -> int:
    """Return the number of compilers to run at a time: MAX_JOBS, or the cores, as far as there is memory."""
    if variables.get('MAX_JOBS'):
        return int(variables['MAX_JOBS'])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return max(1, min(cores, os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // JOB_BYTES))


def minutes(target: str, jobs: int) -> int:
    """Estimate how long mmcv compiles."""
    architectures = target.count('-')
    core_minutes = CPU_MINUTES + (CUDA_MINUTES + ARCHITECTURE_MINUTES * architectures if architectures else 0)
    return max(1, round(core_minutes / jobs))


def toolkit(architectures: str, cuda: str, variables: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of a CUDA toolkit that compiles mmcv, after a trial.

    Args:
        architectures: Value of TORCH_CUDA_ARCH_LIST.
        cuda: CUDA version of torch.
        variables: The environment variables.

    Raises:
        InstallationError: If nvcc is missing, of another CUDA version, does not know an architecture, or fails.
    """
    major = cuda.partition('.')[0]
    if variables.get('CUDA_HOME'):
        home = Path(variables['CUDA_HOME'])
    elif major in INDEXED_CUDA:
        home = Path(sysconfig.get_path('purelib'), 'nvidia', f'cu{major}')
        link_runtime(home, major)
    else:
        home = Path(shutil.which('nvcc', path=variables['PATH'])).resolve().parent.parent
    nvcc = home / 'bin' / 'nvcc'
    if not nvcc.is_file():
        raise InstallationError(f'{nvcc} does not exist; set CUDA_HOME to the folder of a CUDA toolkit {cuda}')
    release = re.search(r'release ([\d.]+)', run(nvcc, '--version'))
    if not release or release[1].partition('.')[0] != major:
        found = release[1] if release else 'unknown'
        raise InstallationError(f'{nvcc} is of CUDA {found}, torch of CUDA {cuda}: take a toolkit of the same version')
    known = run(nvcc, '--list-gpu-arch').split()
    needed = [f'compute_{code.partition("_")[2]}' for code in codes(architectures.split(';'))]
    if unknown := [name for name in needed if re.sub('[af]$', '', name) not in known]:
        raise InstallationError(
            f'nvcc of CUDA {cuda} does not compile for {", ".join(sorted(set(unknown)))}, only for {", ".join(known)}. '
            'Name others with TORCH_CUDA_ARCH_LIST (a newer GPU runs PTX: 12.0+PTX), or compile for CPUs: '
            'CUDA_VISIBLE_DEVICES= FORCE_CUDA=0 make setup (or setup-openmmlab)'
        )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, 'trial.cu')
        source.write_text('#include <vector>\n__global__ void trial() {}\n')
        run(nvcc, '-std=c++17', '-c', source, '-o', source.with_suffix('.o'))
    return home


def link_runtime(home: Path, major: str) -> None:
    """Give the linker the name libcudart.so, which the package of the CUDA runtime leaves out."""
    library = home / 'lib' / f'libcudart.so.{major}'
    link = library.with_suffix('')
    if library.exists() and not link.exists():
        link.symlink_to(library.name)


def run(*command: str | Path) -> str:
    """Return the output of a command.

    Raises:
        InstallationError: If it fails, with what it printed.
    """
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise InstallationError(f'{" ".join(map(str, command))} failed:\n{(done.stderr or done.stdout).strip()}')
    return done.stdout


def lacking(target: str, package: str) -> str | None:
    """Return why the installed mmcv does not serve a target; None if it does, if it also serves others."""
    name, _, version = package.partition('==')
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f'{name} is not installed'
    if installed != version:
        return f'{name} {installed} is installed'
    try:
        importlib.import_module('torch')
        operators = importlib.import_module('mmcv._ext')
    except ImportError as error:
        return f'its operators do not load: {error}'
    found = device_code(Path(operators.__file__))
    if missing := [code for code in target_codes(target) if code not in found]:
        return f'it has code for {" ".join(found) or "CPUs"}, not for {" ".join(missing)}'
    return None


def target_codes(target: str) -> list[str]:
    """Return the device code of a target, as `device_code` names it: without the letter of sm_90a."""
    return [re.sub('[af]$', '', code) for code in target.split('-')[1:]]


def key(target: str, package: str) -> str:
    """Return what a compiled mmcv depends on: its version, torch, Python, platform, CUDA and architectures."""
    python = f'{sys.implementation.cache_tag}'.replace('-', '')
    platform = sysconfig.get_platform().replace('-', '_')
    return '-'.join([package.replace('==', '-'), f'torch{metadata.version("torch")}', python, platform, target])


def wheel_folder(wheels: Path, key: str, package: str) -> Path | None:
    """Return the folder with the wheel of a key, after checking the wheel; None if there is none.

    Args:
        wheels: The folder MMKERV_WHEELS.
        key: What `key` returned.
        package: Name and version.

    Raises:
        InstallationError: If the wheel is damaged or not one of ours, or if there is none and none can be written.
    """
    folder = wheels / key
    found = sorted(folder.glob('*.whl'))
    if found:
        if len(found) > 1:
            raise InstallationError(f'{folder} must hold one wheel, and holds {len(found)}; remove the folder')
        check_wheel(found[0], key, package)
        return folder
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InstallationError(
            f'MMKERV_WHEELS={wheels} has no wheel for {key}, and none can be written to {existing}; make it a writable '
            'folder, or unset MMKERV_WHEELS'
        )
    return None


def check_wheel(wheel: Path, key: str, package: str) -> None:
    """Compare a wheel with its own table of contents and with its key.

    Raises:
        InstallationError: If it is damaged, or was not compiled for this key.
    """
    advice = f'remove it ({wheel.parent}), and the next set-up compiles mmcv again'
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = {name for name in archive.namelist() if not name.endswith('/')}
            (record,) = [name for name in names if re.fullmatch(r'[^/]+\.dist-info/RECORD', name)]
            rows = {row[0]: row[1] for row in csv.reader(io.StringIO(archive.read(record).decode()))}
            damaged = sorted(names ^ set(rows))
            damaged += [name for name in names & set(rows) - {record} if digest(archive.read(name)) != rows[name]]
            stamp_name = record.replace('RECORD', STAMP)
            stamp = json.loads(archive.read(stamp_name)) if stamp_name in names else {}
    except (zipfile.BadZipFile, zipfile.zlib.error, ValueError, EOFError, KeyError, OSError) as error:
        raise InstallationError(f'{wheel} is damaged or no wheel ({error}); {advice}') from error
    if damaged:
        raise InstallationError(f'{wheel} is damaged: {", ".join(damaged[:3])}; {advice}')
    name = package.partition('==')[0].replace('-', '_') + f'-{package.partition("==")[2]}-'
    if not wheel.name.startswith(name) or stamp.get('key') != key:
        was = stamp.get('key', 'unknown: it was not kept by a set-up of mmkerv')
        raise InstallationError(f'{wheel} is foreign: it must be compiled for {key}, its key is {was}; {advice}')


def digest(content: bytes) -> str:
    """Return the hash of a file as a wheel's RECORD has it."""
    return 'sha256=' + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()


def keep(wheels: Path, key: str, package: str) -> Path:
    """Put a wheel of the installed mmcv into `wheels/key`, in one step, so that several machines may share the folder.

    Args:
        wheels: The folder MMKERV_WHEELS.
        key: What `key` returned.
        package: Name and version.

    Raises:
        InstallationError: If an installed file is not the compiled one.
    """
    distribution = metadata.distribution(package.partition('==')[0])
    contents, info = {}, ''
    for file in distribution.files or ():
        path = file.as_posix()
        if path.endswith('.dist-info/WHEEL'):
            info = path.partition('/')[0]
        if '__pycache__' in path or (path.partition('/')[0].endswith('.dist-info') and file.name in INSTALLED):
            continue
        content = Path(distribution.locate_file(file)).read_bytes()
        if path.startswith('..') or file.hash is None or digest(content) != f'{file.hash.mode}={file.hash.value}':
            raise InstallationError(
                f'{distribution.locate_file(file)} is not as {package} installed it; set up a new environment'
            )
        contents[path] = content
    contents[f'{info}/{STAMP}'] = json.dumps({'key': key}).encode()
    rows = [[path, digest(content), len(content)] for path, content in contents.items()] + [[f'{info}/RECORD', '', '']]
    record = io.StringIO()
    csv.writer(record, lineterminator='\n').writerows(rows)
    contents[f'{info}/RECORD'] = record.getvalue().encode()

    (tag,) = re.findall(r'^Tag: (.+)$', contents[f'{info}/WHEEL'].decode(), re.MULTILINE)
    folder = wheels / key
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f'{info.removesuffix(".dist-info")}-{tag}.whl'
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        part = Path(scratch, 'part')
        with zipfile.ZipFile(part, 'w', zipfile.ZIP_DEFLATED) as archive:
            for path, content in contents.items():
                archive.writestr(path, content)
        part.replace(wheel)
    return wheel


def main(argv: Sequence[str]) -> int:
    """Run one of the commands; return the exit status."""
    command, *arguments = argv
    if command == 'plan':
        import torch

        chosen, workers = plan(torch.__version__, torch.version.cuda, present_gpus(), unusable_gpu()), jobs()
        print(chosen.target, chosen.architectures, chosen.compiler, workers, sep='\n')
        duration = minutes(chosen.target, workers)
        takes = f"about {duration} min, {workers} files at a time (MAX_JOBS changes it), or seconds from uv's cache"
        print(f'{chosen.sentence}. This takes {takes}')
    elif command == 'toolkit':
        import torch

        print(toolkit(arguments[0], torch.version.cuda))
    elif command == 'has':
        if reason := lacking(*arguments):
            print(reason)
            return 1
    elif command == 'find':
        if folder := wheel_folder(Path(os.environ['MMKERV_WHEELS']), key(*arguments), arguments[1]):
            print(folder)
    elif command == 'keep':
        print(keep(Path(os.environ['MMKERV_WHEELS']), key(*arguments), arguments[1]))
    else:
        raise InstallationError(f'no command {command!r}')
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main(sys.argv[1:]))
    except InstallationError as error:
        sys.exit(f'error: {error}')
