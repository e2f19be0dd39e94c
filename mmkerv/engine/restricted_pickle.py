"""An unpickler for tensors, numbers, strings, containers and mmengine's message history: nothing else is built.

A pickle is a program. What it may name is not enough to make it harmless: it also chooses the arguments of what it
calls and the states of what it fills in, and numpy takes any address from a state. So those are looked at as well.
"""

import functools
import pickle
import types
from collections import Counter
from typing import IO, Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import nn
from torch._tensor import _rebuild_from_type_v2


def restricted_load(file: IO[bytes]) -> Any:
    """Read a pickle of numbers, strings, arrays and containers.

    Raises:
        Exception: whatever a damaged file ends in; ``pickle.UnpicklingError`` for one that names anything else.

    Example:
        >>> import io
        >>> restricted_load(io.BytesIO(pickle.dumps([1, 'a'], 2)))
        [1, 'a']
    """
    return restricted_pickle().load(file)


@functools.cache
def restricted_pickle() -> types.SimpleNamespace:
    """Return a stand-in for the pickle module, as ``torch.load`` takes one, that builds only what is allowed.

    Example:
        >>> import io
        >>> restricted_pickle().load(io.BytesIO(pickle.dumps(print)))
        Traceback (most recent call last):
        ...
        _pickle.UnpicklingError: GLOBAL builtins.print is not allowed
    """
    found = _allowed()
    allowed = {id(item) for item in found.values()}

    # Python's own unpickler in Python: the one in C calls, and fills in, whatever a pickle has put on its stack.
    class Unpickler(pickle._Unpickler):
        dispatch = pickle._Unpickler.dispatch.copy()

        def find_class(self, module: str, name: str) -> Any:
            # Protocol 2 writes Python 2's name of builtins.
            key = f'{module}.{name}'.replace('__builtin__.', 'builtins.')
            if key not in found:
                raise pickle.UnpicklingError(f'GLOBAL {key} is not allowed')
            return found[key]

        def load_reduce(self) -> None:
            function, arguments = self.stack[-2:]
            self._check(function)
            _check_arguments(function, arguments)
            super().load_reduce()

        def load_newobj(self) -> None:
            kind = self.stack[-2]
            self._check(kind)
            # These are called, and an array is made by a function of its own.
            if kind in (np.dtype, np.ndarray):
                raise pickle.UnpicklingError(f'a new {kind!r} is not allowed')
            super().load_newobj()

        def load_build(self) -> None:
            instance, state = self.stack[-2:]
            self._check(type(instance))
            _check_state(instance, state)
            super().load_build()

        def _check(self, item: Any) -> None:
            if id(item) not in allowed:
                raise pickle.UnpicklingError(f'{item!r} is not allowed')

        dispatch |= {pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_newobj, pickle.BUILD[0]: load_build}
        for code in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4):
            del dispatch[code[0]]

    def load(stream: IO[bytes], **kwargs: Any) -> Any:
        return Unpickler(stream, **kwargs).load()

    return types.SimpleNamespace(Unpickler=Unpickler, load=load, __name__='restricted pickle')


def _allowed() -> dict[str, Any]:
    """Return what checkpoints name: what torch allows, what it wrote before, message histories and numpy's numbers."""
    from torch._weights_only_unpickler import _get_allowed_globals

    core = np._core if int(np.__version__.partition('.')[0]) >= 2 else np.core
    # An array of objects, or of fields that may hold them, is numbers no more; times have states of their own.
    left_out = (np.object_, np.void, np.datetime64, np.timedelta64)
    kinds = [kind for kind in {np.bool_, *np.sctypeDict.values()} if not issubclass(kind, left_out)]
    items = {HistoryBuffer, np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in kinds)}
    items |= {torch.storage.TypedStorage, torch.storage.UntypedStorage, nn.Parameter, torch.device}
    items |= {slice, Counter, bytearray, complex, set}
    found = {**_get_allowed_globals(), **{f'{item.__module__}.{item.__qualname__}': item for item in items}}
    # numpy 2 moved them, and a checkpoint says where the numpy that wrote it had them.
    for package in ('numpy.core', 'numpy._core'):
        found[f'{package}.multiarray._reconstruct'] = core.multiarray._reconstruct
        found[f'{package}.multiarray.scalar'] = core.multiarray.scalar
    # A HistoryBuffer stores its statistics as functions of its own class, pickled as getattr(HistoryBuffer, name).
    return {**found, 'builtins.getattr': _history_function, '_codecs.encode': _encode_latin1}


def _history_function(owner: Any, name: str) -> Any:
    if owner is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is not allowed')
    return getattr(owner, name)


def _encode_latin1(text: str, encoding: str) -> bytes:
    """How protocol 2 of pickle, which torch uses, writes bytes."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'encoding {encoding!r} is not allowed')
    return text.encode(encoding)


def _check_arguments(function: Any, arguments: tuple) -> None:
    """Refuse calls that would get around what is checked here."""
    name = getattr(function, '__name__', '')
    if function is np.dtype:
        sound = arguments and isinstance(arguments[0], str) and _is_plain(np.dtype(arguments[0]))
    elif name == '_reconstruct':
        sound = len(arguments) == 3 and arguments[0] is np.ndarray and arguments[1:] in (((0,), b'b'), ((0,), 'b'))
    elif name == 'scalar':
        sound = isinstance(arguments[0], np.dtype) and _is_plain(arguments[0])
    elif function is _rebuild_from_type_v2:
        # It calls its first argument, and fills in what that gives.
        rebuilds = getattr(arguments[0], '__module__', '') == 'torch._utils' and arguments[0] is not function
        sound = rebuilds and arguments[1] in (torch.Tensor, nn.Parameter)
    else:
        sound = function is not np.ndarray
    if not sound:
        raise pickle.UnpicklingError(f'{function!r} is not allowed with these arguments')


def _check_state(instance: Any, state: Any) -> None:
    """Refuse states by which numpy would take the bytes of a file for addresses of objects."""
    if isinstance(instance, np.dtype):
        # Fields, subtypes and flags are what they are for a type of its name; the order of bytes may be any.
        own = instance.__reduce__()[2]
        order = state[1] if isinstance(state, tuple) and len(state) == len(own) else None
        sound = order in ('<', '>', '|', '=') and state == (own[0], order, *own[2:])
    elif isinstance(instance, np.ndarray):
        kind = state[2] if isinstance(state, tuple) and len(state) == 5 else None
        sound = isinstance(kind, np.dtype) and _is_plain(kind) and isinstance(state[4], (bytes, str))
    else:
        sound = True
    if not sound:
        raise pickle.UnpicklingError(f'this state of {type(instance).__name__} is not allowed')


def _is_plain(kind: np.dtype) -> bool:
    return kind.kind in 'biufcSU' and not kind.hasobject and kind.names is None and kind.subdtype is None
