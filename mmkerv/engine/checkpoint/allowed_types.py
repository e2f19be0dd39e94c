"""What a pickle may name, for :mod:`mmkerv.engine.checkpoint.unpickler`: plain objects, and functions of ours that build.

Each function has the name and the arguments of one that torch or numpy write into checkpoints, looks at what it is
given, and builds one thing. Types are compared as they are: an argument from a file may claim to equal anything.
"""

import pickle
import types
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch import Tensor, nn

STATISTICS = ('min', 'max', 'current', 'mean')
# Functions that are pickled as attributes of their classes.
ATTRIBUTES = ((HistoryBuffer, STATISTICS), (OneCycleParamScheduler, ('_annealing_cos', '_annealing_linear')))
CONTAINERS = (dict, OrderedDict, Counter)
# What functions of Python's own may be called with.
VALUES = (*CONTAINERS, list, tuple, set, str, bytes, int, float, bool, type(None))


def names() -> dict[str, Any]:
    """Return what a pickle may name, by the name that it has there.

    Example:
        >>> sorted(name for name in names() if 'ordered' in name.lower())
        ['collections.OrderedDict']
    """
    found = {f'torch.{name}': item for name, item in vars(torch).items() if type(item) in (torch.dtype, torch.qscheme)}
    for kind in (Tensor, nn.Parameter, torch.storage.UntypedStorage, np.ndarray, HistoryBuffer, OneCycleParamScheduler):
        found[f'{kind.__module__}.{kind.__qualname__}'] = kind
    found['torch.Tensor'] = Tensor
    return {**found, **{name: function for function, places in BUILDERS.items() for name in places}}


def refuse(what: str) -> None:
    """Raise the error of a pickle that asks for more than is allowed.

    Example:
        >>> refuse('a program')
        Traceback (most recent call last):
        ...
        _pickle.UnpicklingError: a program is not allowed
    """
    raise pickle.UnpicklingError(f'{what} is not allowed')


def check_state(instance: Any, state: Any) -> None:
    """Refuse to fill in what would then hide a method, or take the bytes of a file for an address.

    Raises:
        pickle.UnpicklingError: for everything but the state of an array, a type, a message history or a state dict.

    Example:
        >>> check_state(OrderedDict(), {'_metadata': {}})
    """
    if isinstance(instance, np.dtype):
        # Fields, subtypes and flags are what they are for a type of its name; the order of bytes may be any.
        own = instance.__reduce__()[2]
        sound = type(state) is tuple and [type(item) for item in state] == [type(item) for item in own]
        sound = sound and state[1] in ('<', '>', '|', '=') and state == (own[0], state[1], *own[2:])
    elif type(instance) is np.ndarray:
        sound = type(state) is tuple and len(state) == 5 and isinstance(state[2], np.dtype)
        # One that was filled in may be in use.
        sound = sound and _is_plain(state[2]) and type(state[4]) in (bytes, str) and instance.shape == (0,)
    elif type(instance) is HistoryBuffer:
        sound = type(state) is dict and all(type(key) is str and _is_history(key, state[key]) for key in state)
    elif type(instance) in (OrderedDict, Counter):
        # The versions of modules, in the state of a network.
        sound = type(state) is dict and list(state) in ([], ['_metadata'])
    else:
        sound = False
    if not sound:
        refuse(f'this state of {type(instance).__name__}')


def _is_history(key: str, value: Any) -> bool:
    if key == 'statistics_methods':
        own = {name: getattr(HistoryBuffer, name) for name in STATISTICS}
        return type(value) is dict and all(type(n) is str and value[n] is own.get(n) for n in value)
    kinds = {'max_length': int, '_log_history': np.ndarray, '_count_history': np.ndarray}
    return key in kinds and type(value) is kinds[key]


def _is_plain(kind: np.dtype) -> bool:
    return kind.kind in 'biufcSU' and not kind.hasobject and kind.names is None and kind.subdtype is None


def _getattr(owner: Any, name: str) -> Any:
    if type(name) is not str or not any(owner is kind and name in functions for kind, functions in ATTRIBUTES):
        refuse(f'getattr({owner!r}, {name!r})')
    return getattr(owner, name)


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 of pickle, which torch uses, writes bytes."""
    if type(text) is not str or type(encoding) is not str or encoding != 'latin1':
        refuse(f'the encoding {encoding!r}')
    return text.encode(encoding)


def _no_bytes() -> bytes:
    """How it writes none."""
    return b''


def _python(kind: Callable) -> Callable:
    def build(*arguments: Any) -> Any:
        if not all(type(argument) in VALUES for argument in arguments):
            refuse(f'a {kind.__name__} of these arguments')
        return kind(*arguments)

    build.__name__ = build.__qualname__ = kind.__name__
    return build


def _dtype(name: str, *_: Any) -> np.dtype:
    # A copy: what is filled in would else be that of the whole process.
    kind = np.dtype(name, copy=True) if type(name) is str else None
    if kind is None or not _is_plain(kind):
        refuse(f'the type {name!r}')
    return kind


def _reconstruct(kind: type, shape: tuple, letter: Any) -> np.ndarray:
    if kind is not np.ndarray or type(shape) is not tuple or shape != (0,) or letter not in (b'b', 'b'):
        refuse('such an array')
    return np.empty(0, np.int8)


def _scalar(kind: np.dtype, data: Any = b'') -> Any:
    if not isinstance(kind, np.dtype) or not _is_plain(kind) or type(data) not in (bytes, str):
        refuse('such a number')
    if not kind.itemsize:
        return kind.type()
    return np.frombuffer(data if type(data) is bytes else data.encode('latin1'), kind, 1)[0]


def _bounds(storage: Any, offset: int, size: Any, stride: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Refuse a view that reaches beyond what it is of."""
    plain = type(storage) is torch.storage.TypedStorage and type(offset) is int and offset >= 0
    shape = [tuple(numbers) if type(numbers) in (tuple, torch.Size, list) else None for numbers in (size, stride)]
    if not plain or None in shape or any(type(n) is not int or n < 0 for numbers in shape for n in numbers):
        refuse('such a tensor')
    size, stride = shape
    last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if 0 not in size else -1
    stored = storage._untyped_storage
    if stored.device.type != 'meta' and (last + 1) * storage.element_size() > stored.nbytes():
        refuse('a tensor larger than what is stored')
    return size, stride


def _rebuild_tensor(
    storage: Any, offset: int, size: Any, stride: Any, requires_grad: bool = False, hooks: Any = None, meta: Any = None
) -> Tensor:
    tensor = torch._utils._rebuild_tensor(storage, offset, *_bounds(storage, offset, size, stride))
    # Hooks, which checkpoints do not hold, would be called in backward.
    tensor.requires_grad = requires_grad is True
    if meta is not None:
        if type(meta) is not dict or any(type(n) is not str or type(meta[n]) is not bool for n in meta):
            refuse('this metadata')
        torch._utils.set_tensor_metadata(tensor, meta)
    return tensor


def _rebuild_tensor_v3(
    storage: Any, offset: int, size: Any, stride: Any, requires_grad: bool, hooks: Any, dtype: torch.dtype, *meta: Any
) -> Tensor:
    if type(dtype) is not torch.dtype or type(storage) is not torch.storage.TypedStorage:
        refuse('such a tensor')
    typed = torch.storage.TypedStorage(wrap_storage=storage._untyped_storage, dtype=dtype, _internal=True)
    return _rebuild_tensor(typed, offset, size, stride, requires_grad, hooks, *meta)


def _rebuild_qtensor(
    storage: Any, offset: int, size: Any, stride: Any, quantizer: Any, requires_grad: bool, hooks: Any
) -> Tensor:
    bounds = _bounds(storage, offset, size, stride)
    return torch._utils._rebuild_qtensor(storage, offset, *bounds, quantizer, requires_grad is True, OrderedDict())


def _rebuild_meta_tensor(dtype: torch.dtype, size: Any, stride: Any, requires_grad: bool) -> Tensor:
    return torch._utils._rebuild_meta_tensor_no_storage(dtype, tuple(size), tuple(stride), requires_grad is True)


def _rebuild_parameter(data: Tensor, requires_grad: bool, hooks: Any, state: Any = None) -> nn.Parameter:
    if type(data) is not Tensor:
        refuse('such a parameter')
    return _noted(nn.Parameter(data, requires_grad is True), state)


def _rebuild_from_type(function: Any, kind: type, arguments: tuple, state: Any) -> Tensor:
    if not any(function is own for own in TENSORS) or type(arguments) is not tuple:
        refuse('such a tensor')
    if kind is not Tensor and kind is not nn.Parameter:
        refuse(f'a tensor of the type {kind!r}')
    tensor = function(*arguments)
    return _noted(tensor if type(tensor) is kind else tensor.as_subclass(kind), state)


def _noted(tensor: Tensor, state: Any) -> Tensor:
    """Set the attributes that a user has given a tensor; none that torch or numpy look for."""
    for part in state if type(state) is tuple else (state,):
        for name in part if type(part) is dict else ():
            if type(name) is not str or name.startswith('__') or hasattr(Tensor, name):
                refuse(f'the attribute {name!r}')
            setattr(tensor, name, part[name])
    return tensor


def _get_layout(name: str) -> torch.layout:
    return torch.serialization._get_layout(name) if type(name) is str else refuse('such a layout')


TENSORS = (_rebuild_tensor, _rebuild_tensor_v3, _rebuild_qtensor, _rebuild_meta_tensor)
BUILDERS: dict[types.FunctionType, tuple[str, ...]] = {
    _getattr: ('builtins.getattr',),
    _encode: ('_codecs.encode',),
    _no_bytes: ('builtins.bytes',),
    **{_python(kind): (f'builtins.{kind.__name__}',) for kind in (set, slice, bytearray, complex)},
    **{_python(kind): (f'collections.{kind.__name__}',) for kind in (OrderedDict, Counter)},
    **{_python(kind): (f'torch.{kind.__name__}',) for kind in (torch.Size, torch.device)},
    # numpy 2 moved them, and a checkpoint says where the numpy that wrote it had them.
    _dtype: ('numpy.dtype',),
    _reconstruct: ('numpy.core.multiarray._reconstruct', 'numpy._core.multiarray._reconstruct'),
    _scalar: ('numpy.core.multiarray.scalar', 'numpy._core.multiarray.scalar'),
    _rebuild_tensor: ('torch._utils._rebuild_tensor', 'torch._utils._rebuild_tensor_v2'),
    _rebuild_tensor_v3: ('torch._utils._rebuild_tensor_v3',),
    _rebuild_qtensor: ('torch._utils._rebuild_qtensor',),
    _rebuild_meta_tensor: ('torch._utils._rebuild_meta_tensor_no_storage',),
    _rebuild_parameter: ('torch._utils._rebuild_parameter', 'torch._utils._rebuild_parameter_with_state'),
    _rebuild_from_type: ('torch._tensor._rebuild_from_type_v2',),
    _get_layout: ('torch.serialization._get_layout',),
}
