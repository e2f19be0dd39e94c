"""``demo.json``: results of a run of the demo, its settings, machine and wall time."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mmkerv.engine.checkpoint.atomic_write import atomic_path
from mmkerv.errors import ConfigError

RECORD_FILE = 'demo.json'
# Height and width of the demo's images.
SHAPE = (160, 160)


@dataclass(frozen=True)
class DemoRecord:
    """A finished run of the demo; pairs are (trained, folded).

    Args:
        config: config file of the network.
        options: the settings of ``--cfg-options``.
        data: folder of the data.
        seed: seed of the training.
        date: start of the run, ISO 8601.
        seconds: wall time of the run.
        environment: hardware and versions, from :func:`mmkerv.analysis.machine.environment`.
        before: metrics of the trained network, as mmengine's test returns them.
        after: metrics of the folded network.
        difference: largest difference of their raw outputs, relative to the largest output.
        parameters: numbers of parameters.
        milliseconds: median inference times of one image.
        associations: smallest and largest |K - W| / |W| of the trained operators.
        plain: ``config``, ``metrics``, ``parameters``, ``milliseconds`` and ``seconds`` of the plain network; ``None``
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
        with atomic_path(work / RECORD_FILE) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + '\n')


def read_record(work: Path) -> DemoRecord:
    """Read the record of the demo's folder.

    Raises:
        FileNotFoundError: if there is none.
        ConfigError: if it cannot be read or another version wrote it.

    Example:
        >>> read_record(Path('work_dirs/demo')).seed  # doctest: +SKIP
        0
    """
    file = work / RECORD_FILE
    if not file.is_file():
        raise FileNotFoundError(f'{file} does not exist: no demo was finished in {work}. Run `make demo` first')
    advice = 'run `make demo` again'
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise ConfigError(f'{file} cannot be read: {error}; {advice}') from error
    names = [field.name for field in fields(DemoRecord)]
    missing = [name for name in names if name != 'plain' and (not isinstance(content, dict) or name not in content)]
    if missing:
        raise ConfigError(f'{file} lacks {", ".join(missing)}: another version of the demo wrote it; {advice}')
    return DemoRecord(**{name: content[name] for name in names if name in content})
