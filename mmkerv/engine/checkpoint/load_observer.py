"""Observation of what a checkpoint gives a network; neither torch nor mmengine reports a load that is not strict."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def observe_loading(model: nn.Module, on_value: Callable[[str, Tensor, Any], None]) -> Iterator[dict[str, Any]]:
    """Call ``on_value(key, own, value)`` for every parameter and buffer of ``model`` that a checkpoint gives a value.

    It observes what torch's and mmengine's ``load_state_dict`` load after the modules' own hooks have renamed keys or
    resized tables, without the initial values that operators fill in for a plain checkpoint.

    Args:
        model: network.
        on_value: called with the key, the network's tensor, and the checkpoint's value, whose shape may differ.

    Yields:
        A dict, filled during loading, of the keys that ``model`` does not have, with their values.

    Example:
        >>> import torch
        >>> net, keys = nn.Linear(2, 2), []
        >>> with observe_loading(net, lambda key, own, value: keys.append(key)) as unexpected:
        ...     _ = net.load_state_dict({'bias': torch.zeros(2), 'scale': torch.ones(1)}, strict=False)
        >>> keys, unexpected
        (['bias'], {'scale': tensor([1.])})
    """
    unexpected: dict[str, Any] = {}
    given: dict[str, Any] = {}

    def observer(module: nn.Module) -> Callable[..., None]:
        def observe(state_dict: dict, prefix: str, *_: Any) -> None:
            if 'num_batches_tracked' not in module._buffers:
                given.update(state_dict)
            for name, own in [*module._parameters.items(), *module._buffers.items()]:
                key, value = prefix + name, state_dict.get(prefix + name)
                # Batch norms add the counter themselves to checkpoints written before torch 1.0, which lack it.
                if name == 'num_batches_tracked' and key not in given:
                    continue
                if own is not None and value is not None and value is not own:
                    on_value(key, own, value)

        return observe

    with ExitStack() as stack:
        for module in model.modules():
            handle = module._register_load_state_dict_pre_hook(observer(module))
            stack.callback(handle.remove)

        def finish(_: nn.Module, keys: Any) -> None:
            unexpected.update({key: given.get(key) for key in keys.unexpected_keys})
            given.clear()

        handle = model.register_load_state_dict_post_hook(finish)
        stack.callback(handle.remove)
        yield unexpected
