"""Trained runs folded, and the inference of all variants timed in turn."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mmkerv.analysis.comparison.cost import reason, unlogged
from mmkerv.analysis.comparison.record import Run, write_json
from mmkerv.analysis.machine import environment
from mmkerv.deploy.compared_outputs import REFUSALS
from mmkerv.deploy.comparison import inference_times
from mmkerv.deploy.fold import fold_checkpoint
from mmkerv.deploy.model_outputs import raw_outputs, sample_inputs
from mmkerv.deploy.trained_model import load_trained
from mmkerv.engine.config.read import load_config
from mmkerv.errors import UserError
from mmkerv.utils import printable

FOLDED, FOLD_FILE, TIMES_FILE = 'deploy.pth', 'fold.json', 'inference.json'
# Errors by which a network that cannot be loaded or run ends its timing.
UNTIMED = (UserError, OSError, *REFUSALS)


def fold_run(run: Run, config: Path, shape: tuple[int, int]) -> dict[str, Any]:
    """Fold a finished run into ``deploy.pth`` and ``deploy.py`` of its folder, and check it; once a checkpoint.

    Args:
        run: the run.
        config: config of its variant.
        shape: height and width of the images of the check.

    Returns:
        ``checkpoint`` and the largest relative ``difference`` of the outputs, or ``kept``, why it does not fold.

    Example:
        >>> fold_run(run, Path('coc.py'), (160, 160))['difference']  # doctest: +SKIP
        2.1e-07
    """
    if run.variant.operator is None:
        return {'kept': 'nothing to fold'}
    checkpoint, file = run.checkpoint, run.folder / FOLD_FILE
    if checkpoint is None:
        return {'kept': f'{run.folder} has no checkpoint'}
    if found := kept_fold(run):
        return found
    known = _checkpoint_of(run)
    try:
        with unlogged():
            result = fold_checkpoint(load_config(str(config)), checkpoint, run.folder / FOLDED, shape=shape)
        found = {**known, 'checkpoint': FOLDED, 'difference': result.error, 'compared': result.compared}
    except UserError as error:
        # Without the name of the checkpoint: what keeps the networks of all seeds is one reason.
        found = {**known, 'kept': printable(str(error).removeprefix(f'{checkpoint}: '), 500)}
    except REFUSALS as error:
        # Not kept: memory may have been short.
        return {'kept': reason(error)}
    write_json(file, found)
    return found


def kept_fold(run: Run) -> dict[str, Any] | None:
    """Return what folding the run's present checkpoint gave before, or ``None`` if that has not been kept.

    Example:
        >>> kept_fold(Run(None, 0, Path('absent'))) is None
        True
    """
    found = _read(run.folder / FOLD_FILE)
    return found if found and run.checkpoint and _checkpoint_of(run).items() <= found.items() else None


def kept_times(runs: Sequence[Run], folder: Path) -> dict[str, Any]:
    """Return the times of before if all their networks are still those of the runs, else nothing.

    Networks that were added since have no time yet: :func:`times` measures all of them again.

    Args:
        runs: the runs of the comparison.
        folder: folder of the comparison.

    Example:
        >>> kept_times([], Path('absent'))
        {}
    """
    found = _read(folder / TIMES_FILE) or {}
    networks = [(run.variant.spec, _timed(run)) for run in runs]
    return found if all(network in networks for network in found.get('of', {}).items()) else {}


def times(
    runs: Sequence[Run],
    configs: dict[str, Path],
    shape: tuple[int, int],
    folder: Path,
    device: str = 'cpu',
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Time one image through the trained and the folded network of one run of each variant, all in turn.

    The times are kept in ``inference.json``, and measured again for other runs, folded networks or another device, and
    where a network could not be timed: memory may have been short.

    Args:
        runs: finished runs, one a variant.
        configs: config of each variant, by its spec.
        shape: height and width of the image.
        folder: folder of the comparison.
        device: name of a torch device.
        tell: called with a line of text.

    Returns:
        ``milliseconds``, by spec a pair (trained, folded) with ``None`` for what does not fold or cannot be timed;
        ``not_timed``, the reasons for the latter, in words; ``device``, ``threads`` and ``shape``.

    Example:
        >>> times(runs, configs, (160, 160), work)['milliseconds']  # doctest: +SKIP
        {'plain': [44.4, None], 'coc': [103.2, 41.0]}
    """
    file, of = folder / TIMES_FILE, {run.variant.spec: _timed(run) for run in runs}
    models, places, not_timed = [], [], []
    known = {'of': of, 'device': device, 'not_timed': []}
    if (found := _read(file)) and known.items() <= found.items():
        return found
    tell(f'timing the inference of {len(runs)} networks')
    for run in runs:
        parts = [(configs[run.variant.spec], run.checkpoint)]
        if (run.folder / FOLDED).is_file():
            parts.append((run.folder / FOLDED).with_suffix('.py'))
        for place, part in enumerate(parts):
            config, weights = part if isinstance(part, tuple) else (part, part.with_suffix('.pth'))
            try:
                with unlogged():
                    model = load_trained(str(config), weights, device=device)[1]
                # The same numbers for all of them.
                images, data = next(sample_inputs(model, shape))
                with torch.no_grad():
                    raw_outputs(model, images.to(device), data)
            except UNTIMED as error:
                which = ' (folded)' if place else ''
                not_timed.append(f'{run.variant.spec}{which}: not timed: {reason(error)}')
                tell(not_timed[-1])
                continue
            models.append(model)
            places.append((run.variant.spec, place))
            inputs, samples = images, data
    found = {**known, 'threads': torch.get_num_threads(), 'shape': list(shape), 'milliseconds': {}}
    found |= {'not_timed': not_timed, 'environment': environment()}
    for run in runs:
        found['milliseconds'][run.variant.spec] = [None, None]
    if models:
        try:
            with torch.no_grad():
                measured = inference_times(models, inputs.to(device), samples)
        except UNTIMED as error:
            # Each has run alone, but all of them share the memory.
            measured = []
            not_timed.append(f'no network is timed: {reason(error)}')
            tell(not_timed[-1])
        for (spec, place), milliseconds in zip(places, measured):
            found['milliseconds'][spec][place] = round(milliseconds, 3)
    write_json(file, found)
    return found


def _checkpoint_of(run: Run) -> dict[str, Any]:
    return {'of': run.checkpoint.name, 'time': run.checkpoint.stat().st_mtime_ns}


def _timed(run: Run) -> list[int]:
    """Return what tells whether the times are still those of the run: its seed, its checkpoint, the folded one."""
    files = (run.checkpoint, run.folder / FOLDED)
    return [run.seed, *(file.stat().st_mtime_ns if file and file.is_file() else 0 for file in files)]


def _read(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text())
    except ValueError:
        # Written again.
        return None
    return found if isinstance(found, dict) else None
