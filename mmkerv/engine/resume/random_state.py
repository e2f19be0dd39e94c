"""Random states of python, numpy and torch: drawn from a key, read, and set back."""

import hashlib
import random
from typing import Any

import numpy as np
import torch


def seed_generators(*key: int, devices: bool = True) -> None:
    r"""Set python's, numpy's and torch's generators to a state that depends on ``key`` alone.

    :math:`state = hash(key_1, ..., key_n)`: keys that differ in one integer give independent streams, which
    ``seed + epoch`` would not.

    Args:
        *key: integers >= 0.
        devices: also set the generators of every CUDA device; a worker of a data loader leaves them alone.

    Example:
        >>> seed_generators(0, 1, devices=False); first = torch.rand(1).item(), random.random()
        >>> seed_generators(0, 1, devices=False); first == (torch.rand(1).item(), random.random())
        True
    """
    # numpy's SeedSequence takes (0, 1) and (0, 1, 0) for one.
    words = np.frombuffer(hashlib.blake2b(repr(key).encode(), digest_size=32).digest(), np.uint32)
    random.seed(int(words[:2].view(np.uint64)[0]))
    np.random.seed(words[2:6])
    # torch's generators do not take the last bit everywhere.
    number = int(words[6:].view(np.uint64)[0]) >> 1
    if devices:
        torch.manual_seed(number)
    else:
        torch.default_generator.manual_seed(number)


def read_states() -> dict[str, Any]:
    """Return the states of all generators, as tensors, numbers and tuples that a checkpoint can hold.

    Example:
        >>> states = read_states(); drawn = np.random.rand()
        >>> set_states(states); drawn == np.random.rand()
        True
    """
    name, keys, *rest = np.random.get_state()
    return {
        'python': random.getstate(),
        'numpy': (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_states(states: dict[str, Any]) -> None:
    """Set the generators to what :func:`read_states` returned, here or in another process.

    Args:
        states: on any device; states of CUDA devices that are not here are left out.

    Example:
        >>> states = read_states(); drawn = random.random()
        >>> set_states(states); drawn == random.random()
        True
    """
    version, internal, gauss = states['python']
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())
    if torch.cuda.is_available():
        for device, state in list(enumerate(states['cuda']))[: torch.cuda.device_count()]:
            torch.cuda.set_rng_state(state.cpu(), device)
