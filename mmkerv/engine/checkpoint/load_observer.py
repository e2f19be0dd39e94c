"""What a checkpoint really gave a network: neither torch nor mmengine says it of a load that is not strict."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def watched_loading(model: nn.Module, seen: Callable[[str, Tensor, Any], None]) -> Iterator[list[str]]:
    """Call ``seen(key, own, value)`` for every parameter and buffer of ``model`` that a checkpoint gives a value.

    It sees what torch's and mmengine's ``load_state_dict`` see after the modules' own hooks have renamed keys or
    resized tables, and not what operators put in place of what a plain checkpoint lacks.

    Args:
        model: network.
        seen: gets the key, the network's tensor, and the checkpoint's, whose shape may differ.

    Yields:
        A list that fills with the keys which ``model`` has no place for.

    Example:
        >>> import torch
        >>> net, keys = nn.Linear(2, 2), []
        >>> with watched_loading(net, lambda key, own, value: keys.append(key)) as unexpected:
        ...     _ = net.load_state_dict({'bias': torch.zeros(2), 'scale': torch.ones(1)}, strict=False)
        >>> keys, unexpected
        (['bias'], ['scale'])
    """
    unexpected: list[str] = []
    offered: set[str] = set()

    def watcher(module: nn.Module) -> Callable[..., None]:
        def watch(state_dict: dict, prefix: str, *_: Any) -> None:
            if 'num_batches_tracked' not in module._buffers:
                offered.update(state_dict)
            for name, own in [*module._parameters.items(), *module._buffers.items()]:
                key, value = prefix + name, state_dict.get(prefix + name)
                # Batch norms put in the counter themselves that checkpoints of before torch 1.0 do not have.
                if name == 'num_batches_tracked' and key not in offered:
                    continue
                if own is not None and value is not None and value is not own:
                    seen(key, own, value)

        return watch

    with ExitStack() as stack:
        for module in model.modules():
            handle = module._register_load_state_dict_pre_hook(watcher(module))
            stack.callback(handle.remove)
        handle = model.register_load_state_dict_post_hook(lambda _, keys: unexpected.extend(keys.unexpected_keys))
        stack.callback(handle.remove)
        yield unexpected
