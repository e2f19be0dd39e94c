"""``demo.json``: what a run of the demo found, on which machine, and how long it took."""

import json
import platform
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from mmkerv.distributions import distribution, installed_packages
from mmkerv.engine.checkpoint.atomic_write import atomic_path
from mmkerv.errors import ConfigError
from mmkerv.version import __version__

FILE = 'demo.json'


@dataclass(frozen=True)
class DemoRecord:
    """A finished run of the demo; pairs are (trained, folded).

    Args:
        config: config file of the network.
        options: what ``--cfg-options`` said.
        data: folder of the data.
        seed: of the training.
        date: when the run began, ISO 8601.
        seconds: wall time of the run.
        environment: as :func:`environment` returns it.
        before: metrics of the trained network, as mmengine's test returns them.
        after: metrics of the folded one.
        difference: largest difference of their raw outputs, relative to the largest output.
        parameters: numbers of parameters.
        milliseconds: median inference times of one image.
        associations: smallest and largest |K - W| / |W| of the trained operators.
        plain: of the plain network ``config``, ``metrics``, ``parameters``, ``milliseconds`` and ``seconds``; ``None``
            if it was not trained.

    Example:
        >>> [field.name for field in fields(DemoRecord)][:2]
        ['config', 'options']
    """

    config: str
    options: dict[str, Any]
    data: str
    seed: int
    date: str
    seconds: float
    environment: dict[str, str]
    before: dict[str, float]
    after: dict[str, float]
    difference: float
    parameters: tuple[int, int]
    milliseconds: tuple[float, float]
    associations: tuple[float, float]
    plain: dict[str, Any] | None = None

    def write(self, work: Path) -> None:
        """Write the record into the demo's folder."""
        with atomic_path(work / FILE) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + '\n')


def read_record(work: Path) -> DemoRecord:
    """Read the record of the demo's folder.

    Raises:
        FileNotFoundError: if there is none.
        ConfigError: if it is not one of this version.

    Example:
        >>> read_record(Path('work_dirs/demo')).seed  # doctest: +SKIP
        0
    """
    file = work / FILE
    if not file.is_file():
        raise FileNotFoundError(f'{file} is not there: no demo was finished in {work}. Run `make demo` first')
    cure = 'run `make demo` again'
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise ConfigError(f'{file} cannot be read: {error}; {cure}') from error
    names = [field.name for field in fields(DemoRecord)]
    missing = [name for name in names if name != 'plain' and (not isinstance(found, dict) or name not in found)]
    if missing:
        raise ConfigError(f'{file} lacks {", ".join(missing)}: another version of the demo wrote it; {cure}')
    return DemoRecord(**{name: found[name] for name in names if name in found})


def environment() -> dict[str, str]:
    """Hardware and versions of this process, label by label.

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
    """Name of the processor, as far as the system tells.

    Example:
        >>> bool(processor())
        True
    """
    cpus = Path('/proc/cpuinfo')
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()
