"""Random numbers of operators that leave those of the network around them as they are."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_random_numbers(device: torch.device | None = None) -> Iterator[None]:
    """Draw from generators of their own inside the block; torch's default ones are as before after it.

    What is drawn depends on the state of torch's default generator of the CPU, so it is another after other draws, and
    the same under the same seed.

    Args:
        device: where numbers are drawn besides the CPU.

    Example:
        >>> _ = torch.manual_seed(0); plain = torch.rand(3)
        >>> _ = torch.manual_seed(0)
        >>> with own_random_numbers():
        ...     own = torch.rand(3)
        >>> bool(torch.equal(torch.rand(3), plain)), bool(torch.equal(own, plain))
        (True, False)
    """
    # The same numbers as the caller draws next would tie an operator's parameters to those of the following layer.
    state = torch.get_rng_state().numpy().tobytes()
    seed = int.from_bytes(hashlib.sha256(state).digest()[:7], 'little')
    on_gpu = device is not None and device.type == 'cuda'
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
