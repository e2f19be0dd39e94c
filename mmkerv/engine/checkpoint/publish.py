"""Stripping of training checkpoints for release."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from mmkerv.engine.checkpoint.finite import require_finite
from mmkerv.engine.checkpoint.layouts import container, plain_layout, weights_of
from mmkerv.errors import ConfigError


def strip_checkpoint(
    checkpoint: dict, keys: Sequence[str] = ('meta', 'state_dict'), no_ema: bool = False, source: str = 'the file'
) -> dict:
    """Return a training checkpoint with the given keys only.

    With EMA, mmengine saves the averaged weights as ``state_dict`` and the raw ones as ``ema_state_dict``.

    Args:
        checkpoint: content of a file that a runner saved.
        keys: keys to keep.
        no_ema: keep the raw weights in place of the averaged ones.
        source: name of the checkpoint, for messages.

    Raises:
        ConfigError: if the checkpoint lacks a key.
        CheckpointMismatchError: if its weights are not parameters by name.
        NonFiniteWeightsError: if a weight holds NaN or infinite numbers.

    Example:
        >>> strip_checkpoint({'state_dict': {'a': 1}, 'optimizer': {}}, ['state_dict'])
        {'state_dict': {'a': 1}}
    """
    if not isinstance(checkpoint, dict):
        raise ConfigError(f'the checkpoint holds a {type(checkpoint).__name__}; give one that a runner saved')
    checkpoint = plain_layout(checkpoint)
    if container(checkpoint) is None and any(isinstance(value, Tensor) for value in checkpoint.values()):
        checkpoint = {'state_dict': checkpoint}
    if no_ema:
        if 'ema_state_dict' not in checkpoint:
            raise ConfigError('--no-ema: the checkpoint has no ema_state_dict, its weights are raw; leave the flag out')
        checkpoint = {**checkpoint, 'state_dict': weights_of({'state_dict': checkpoint['ema_state_dict']}, source)}
    missing = [key for key in keys if key not in checkpoint]
    if missing:
        present = ', '.join(list(map(str, checkpoint))[:8]) or 'nothing'
        raise ConfigError(f'--save-keys: the checkpoint has no {", ".join(missing)}; it has {present}')
    if 'state_dict' in keys:
        require_finite(weights_of(checkpoint, source), source)
    return {key: checkpoint[key] for key in keys}


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / 'a'; _ = file.write_bytes(b''); sha256(file)[:8]
        'e3b0c442'
    """
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
