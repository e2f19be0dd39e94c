"""Random states of Python, numpy and torch: seeding by a key, reading and restoring."""

import hashlib
import random
from typing import Any

import numpy as np
import torch


def seed_generators(*key: int, devices: bool = True) -> None:
    r"""Seed the generators of Python, numpy and torch by a key of integers.

    :math:`state = hash(key_1, ..., key_n)`: keys that differ in one integer give independent streams, unlike
    ``seed + epoch``.

    Args:
        *key: integers >= 0.
        devices: also seed the generators of every CUDA device; ``False`` in the workers of a data loader.

    Example:
        >>> seed_generators(0, 1, devices=False); first = torch.rand(1).item(), random.random()
        >>> seed_generators(0, 1, devices=False); first == (torch.rand(1).item(), random.random())
        True
    """
    # Hashed, because numpy's SeedSequence treats (0, 1) and (0, 1, 0) as equal.
    words = np.frombuffer(hashlib.blake2b(repr(key).encode(), digest_size=32).digest(), np.uint32)
    random.seed(int(words[:2].view(np.uint64)[0]))
    np.random.seed(words[2:6])
    # 63 bits: not every torch generator accepts a seed of 64.
    number = int(words[6:].view(np.uint64)[0]) >> 1
    if devices:
        torch.manual_seed(number)
    else:
        torch.default_generator.manual_seed(number)


def read_states() -> dict[str, Any]:
    """Return the states of all generators as tensors, numbers and tuples, which a checkpoint can hold.

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
    """Restore the generators to states of :func:`read_states`, of this or another process.

    Args:
        states: with tensors on any device; states of CUDA devices that do not exist here are ignored.

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
