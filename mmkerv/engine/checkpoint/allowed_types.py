"""Names that a pickle may use, for :mod:`mmkerv.engine.checkpoint.unpickler`: plain types, and checked builders.

A builder takes the place of a function that torch or numpy name in checkpoints: it has the same arguments, checks them,
and builds one object. Types are compared by identity, because an object from a file may claim to equal anything.
"""

import argparse
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
# Types of the arguments that Python's own constructors may be called with.
PLAIN_ARGUMENTS = (*CONTAINERS, list, tuple, set, str, bytes, int, float, bool, type(None))


def allowed_names() -> dict[str, Any]:
    """Return the objects that a pickle may name, by their names in the pickle.

    Example:
        >>> sorted(name for name in allowed_names() if 'ordered' in name.lower())
        ['collections.OrderedDict']
    """
    names = {f'torch.{name}': item for name, item in vars(torch).items() if type(item) in (torch.dtype, torch.qscheme)}
    for kind in (Tensor, nn.Parameter, torch.storage.UntypedStorage, np.ndarray, HistoryBuffer, OneCycleParamScheduler):
        names[f'{kind.__module__}.{kind.__qualname__}'] = kind
    names['torch.Tensor'] = Tensor
    # Many trainers save their command line beside the weights.
    names['argparse.Namespace'] = argparse.Namespace
    return {**names, **{name: builder for builder, aliases in BUILDERS.items() for name in aliases}}


def refuse(what: str) -> None:
    """Raise the error of a pickle that asks for something not allowed.

    Example:
        >>> refuse('a program')
        Traceback (most recent call last):
        ...
        _pickle.UnpicklingError: a program is not allowed
    """
    raise pickle.UnpicklingError(f'{what} is not allowed')


def check_state(instance: Any, state: Any) -> None:
    """Refuse a state that would replace a method of an object, or make numpy take bytes of the file for a pointer.

    Raises:
        pickle.UnpicklingError: unless it is the state of an array, a dtype, a message history, a command line or a
            state dict.

    Example:
        >>> check_state(OrderedDict(), {'_metadata': {}})
    """
    if isinstance(instance, np.dtype):
        # Fields, subtypes and flags must be those of the dtype of this name; only the byte order may differ.
        own = instance.__reduce__()[2]
        allowed = type(state) is tuple and [type(item) for item in state] == [type(item) for item in own]
        allowed = allowed and state[1] in ('<', '>', '|', '=') and state == (own[0], state[1], *own[2:])
    elif type(instance) is np.ndarray:
        allowed = type(state) is tuple and len(state) == 5 and isinstance(state[2], np.dtype)
        # An array that has a state already may be in use, and setting another would free its memory.
        allowed = allowed and _is_plain(state[2]) and type(state[4]) in (bytes, str) and instance.shape == (0,)
    elif type(instance) is HistoryBuffer:
        allowed = type(state) is dict and all(type(key) is str and _is_history(key, state[key]) for key in state)
    elif type(instance) is argparse.Namespace:
        allowed = type(state) is dict and all(type(key) is str and not key.startswith('_') for key in state)
    elif type(instance) in (OrderedDict, Counter):
        # A network's state dict holds the versions of its modules.
        allowed = type(state) is dict and list(state) in ([], ['_metadata'])
    else:
        allowed = False
    if not allowed:
        refuse(f'this state of {type(instance).__name__}')


def _is_history(key: str, value: Any) -> bool:
    """Return whether a message history has an attribute of this name and type."""
    if key == 'statistics_methods':
        methods = {name: getattr(HistoryBuffer, name) for name in STATISTICS}
        return type(value) is dict and all(type(name) is str and value[name] is methods.get(name) for name in value)
    kinds = {'max_length': int, '_log_history': np.ndarray, '_count_history': np.ndarray}
    return key in kinds and type(value) is kinds[key]


def _is_plain(kind: np.dtype) -> bool:
    """Return whether a dtype is a number, bytes or text, without objects, fields or arrays in it."""
    return kind.kind in 'biufcSU' and not kind.hasobject and kind.names is None and kind.subdtype is None


def _getattr(owner: Any, name: str) -> Any:
    if type(name) is not str or not any(owner is kind and name in functions for kind, functions in ATTRIBUTES):
        refuse(f'getattr({owner!r}, {name!r})')
    return getattr(owner, name)


def _encode(text: str, encoding: str) -> bytes:
    """Build bytes, which protocol 2 of pickle, torch's, writes as encoded text."""
    if type(text) is not str or type(encoding) is not str or encoding != 'latin1':
        refuse(f'the encoding {encoding!r}')
    return text.encode(encoding)


def _no_bytes() -> bytes:
    """Build b'', which protocol 2 writes as a call of bytes without arguments."""
    return b''


def _constructor(kind: Callable) -> Callable:
    """Return a builder that calls ``kind`` with plain arguments only."""

    def build(*arguments: Any) -> Any:
        if not all(type(argument) in PLAIN_ARGUMENTS for argument in arguments):
            refuse(f'a {kind.__name__} of these arguments')
        return kind(*arguments)

    build.__name__ = build.__qualname__ = kind.__name__
    return build


def _dtype(name: str, *_: Any) -> np.dtype:
    # A copy, because setting its state would otherwise change the dtype of the whole process.
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
    """Return size and stride of a view; refuse one that extends past its storage."""
    if type(storage) is not torch.storage.TypedStorage or type(offset) is not int or offset < 0:
        refuse('such a tensor')
    for numbers in (size, stride):
        if type(numbers) not in (tuple, torch.Size, list) or any(type(n) is not int or n < 0 for n in numbers):
            refuse('such a tensor')
    size, stride = tuple(size), tuple(stride)
    untyped = storage._untyped_storage
    if 0 not in size and untyped.device.type != 'meta':
        end = offset + sum((n - 1) * step for n, step in zip(size, stride)) + 1
        if end * torch._utils._element_size(storage.dtype) > untyped.nbytes():
            refuse('a tensor larger than what is stored')
    return size, stride


def _rebuild_tensor(
    storage: Any, offset: int, size: Any, stride: Any, requires_grad: bool = False, hooks: Any = None, meta: Any = None
) -> Tensor:
    tensor = torch._utils._rebuild_tensor(storage, offset, *_bounds(storage, offset, size, stride))
    # Hooks from a file would be called in backward; checkpoints have none, and they are ignored.
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
    return _with_attributes(nn.Parameter(data, requires_grad is True), state)


def _rebuild_from_type(function: Any, kind: type, arguments: tuple, state: Any) -> Tensor:
    if not any(function is builder for builder in TENSOR_BUILDERS) or type(arguments) is not tuple:
        refuse('such a tensor')
    if kind is not Tensor and kind is not nn.Parameter:
        refuse(f'a tensor of the type {kind!r}')
    tensor = function(*arguments)
    return _with_attributes(tensor if type(tensor) is kind else tensor.as_subclass(kind), state)


def _with_attributes(tensor: Tensor, state: Any) -> Tensor:
    """Set a user's own attributes of a tensor; refuse names that torch or numpy use."""
    for part in state if type(state) is tuple else (state,):
        for name in part if type(part) is dict else ():
            if type(name) is not str or name.startswith('__') or hasattr(Tensor, name):
                refuse(f'the attribute {name!r}')
            setattr(tensor, name, part[name])
    return tensor


def _get_layout(name: str) -> torch.layout:
    return torch.serialization._get_layout(name) if type(name) is str else refuse('such a layout')


TENSOR_BUILDERS = (_rebuild_tensor, _rebuild_tensor_v3, _rebuild_qtensor, _rebuild_meta_tensor)
# builder -> names that it takes the place of
BUILDERS: dict[types.FunctionType, tuple[str, ...]] = {
    _getattr: ('builtins.getattr',),
    _encode: ('_codecs.encode',),
    _no_bytes: ('builtins.bytes',),
    **{_constructor(kind): (f'builtins.{kind.__name__}',) for kind in (set, slice, bytearray, complex)},
    **{_constructor(kind): (f'collections.{kind.__name__}',) for kind in (OrderedDict, Counter)},
    **{_constructor(kind): (f'torch.{kind.__name__}',) for kind in (torch.Size, torch.device)},
    # numpy 2 moved these; a checkpoint has the name of the numpy that wrote it.
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
