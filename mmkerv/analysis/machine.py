"""The machine of a measurement: hardware and versions."""

import platform
from pathlib import Path

import torch

from mmkerv.distributions import distribution, installed_packages
from mmkerv.version import __version__


def environment() -> dict[str, str]:
    """Return hardware and versions of this process by label.

    Example:
        >>> list(environment())[:3]
        ['processor', 'threads', 'GPU']
    """
    cuda = torch.cuda.is_available()
    facts = {
        'processor': processor(),
        'threads': str(torch.get_num_threads()),
        'GPU': torch.cuda.get_device_name() if cuda else 'none used',
        'system': f'{platform.system()} {platform.machine()}',
        'Python': platform.python_version(),
        'PyTorch': torch.__version__,
        'mmkerv': __version__,
        'distribution': distribution(),
    }
    return facts | {package.name: package.version for package in installed_packages()}


def processor() -> str:
    """Return the name of the processor, as far as the system tells it.

    Example:
        >>> bool(processor())
        True
    """
    cpus = Path('/proc/cpuinfo')
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()
