"""Machine of a measurement: device, threads, hardware and versions."""

import os
import platform
import re
import shutil
import subprocess
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mmkerv.analysis.machine import processor
from mmkerv.distributions import installed_packages
from mmkerv.errors import ArgumentError
from mmkerv.version import __version__

ROOT = Path(__file__).resolve().parents[1]


class Machine(NamedTuple):
    """Resources of a run: device, CPU threads, and data loader workers."""

    device: str = 'cpu'
    threads: int = 1
    loaders: int | None = None

    def checked(self) -> 'Machine':
        """Return the machine if torch finds the device.

        Raises:
            ValueError: if torch does not.
        """
        match = re.fullmatch(r'cpu|cuda(?::(\d+))?', self.device)
        if not match:
            raise ArgumentError(f'--device must be cpu, cuda or cuda:N, got {self.device!r}')
        if self.device != 'cpu' and int(match[1] or 0) >= torch.cuda.device_count():
            raise ArgumentError(
                f'--device {self.device}: torch sees {torch.cuda.device_count()} CUDA devices; '
                'leave --device out to use the CPU'
            )
        return self

    def environment(self) -> dict[str, str]:
        """Return the environment of a process that uses this device only."""
        visible = ''
        if self.device != 'cpu':
            index = int(self.device.partition(':')[2] or 0)
            given = os.environ.get('CUDA_VISIBLE_DEVICES')
            visible = given.split(',')[index] if given else str(index)
        resources = {'OMP_NUM_THREADS': str(self.threads), 'CUDA_VISIBLE_DEVICES': visible}
        # Waiting threads release their core, which matters if runs share cores.
        return {'OMP_WAIT_POLICY': 'PASSIVE', **os.environ, **resources}

    def facts(self) -> dict[str, Any]:
        """Return date, hardware, versions and commit."""
        hardware = processor() if self.device == 'cpu' else torch.cuda.get_device_name(self.device)
        versions = {'python': platform.python_version(), 'torch': torch.__version__, 'mmkerv': __version__}
        versions |= {package.name: package.version for package in installed_packages()}
        facts = {'date': str(date.today()), 'hardware': hardware, 'device': self.device, 'threads': self.threads}
        return facts | {'versions': versions, 'commit': _commit()}


def _commit() -> str | None:
    if shutil.which('git') is None:
        return None
    command = ['git', '-C', str(ROOT), 'describe', '--always', '--dirty', '--exclude', '*']
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout.strip() or None
