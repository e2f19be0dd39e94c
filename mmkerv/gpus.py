"""NVIDIA's GPUs of this machine, as torch and as the driver see them."""

import os
import shutil
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class GPU:
    """A GPU that torch can use.

    Args:
        name: Name of the device.
        capability: Compute capability, such as `(9, 0)`.
    """

    name: str
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f'{self.name} ({self.capability[0]}.{self.capability[1]})'


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver, as the command nvidia-smi reports it.

    Args:
        version: Version of the driver; None without one.
        names: Names of all GPUs, also of those that CUDA_VISIBLE_DEVICES hides.
    """

    version: str | None = None
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f'{self.version}, for {", ".join(self.names)}' if self.names else 'none'


def present_gpus() -> tuple[GPU, ...]:
    """List the GPUs that a torch with CUDA can use; imports torch.

    Example:
        >>> all(gpu.capability >= (3, 5) for gpu in present_gpus())
        True
    """
    import torch

    # torch of ROCm calls its devices CUDA too.
    if torch.version.cuda is None or not torch.cuda.is_available():
        return ()
    return tuple(
        GPU(torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index))
        for index in range(torch.cuda.device_count())
    )


def driver() -> Driver:
    """Ask nvidia-smi for the driver and its GPUs.

    Example:
        >>> driver().version is None or bool(driver().names)
        True
    """
    command = shutil.which('nvidia-smi')
    if command is None:
        return Driver()
    try:
        query = [command, '--query-gpu=driver_version,name', '--format=csv,noheader']
        done = subprocess.run(query, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return Driver()
    rows = [line.split(', ', 1) for line in done.stdout.splitlines() if ', ' in line]
    # Without a working driver it prints a message and fails.
    if done.returncode or not rows:
        return Driver()
    return Driver(rows[0][0], tuple(name for _, name in rows))


def unusable_gpu() -> str | None:
    """Return why torch cannot use a GPU that the driver has; None if it can, or if there is none; imports torch.

    GPUs that CUDA_VISIBLE_DEVICES hides, and a torch without CUDA, are the user's choice.

    Example:
        >>> unusable_gpu() is None or 'nvidia-smi' in unusable_gpu()
        True
    """
    import torch

    if torch.cuda.is_available() or torch.version.cuda is None or 'CUDA_VISIBLE_DEVICES' in os.environ:
        return None
    found = driver()
    if not found.names:
        return None
    try:
        torch.cuda.init()
        reason = 'no reason given'
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
    return (
        f'nvidia-smi lists {found.names[0]} with driver {found.version}, which torch of CUDA {torch.version.cuda} '
        f'cannot use: {reason}'
    )
