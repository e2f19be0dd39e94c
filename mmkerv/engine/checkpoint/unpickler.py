"""Unpickler that builds only tensors, numbers, strings, containers and mmengine's message history.

A pickle is a program. Restricting the names it may use does not make it harmless: it also chooses the arguments of the
functions it calls, the objects whose state it sets, and the containers it fills. All of these are checked.
"""

import argparse
import pickle
import types
from typing import IO, Any

import torch
from mmengine.logging import HistoryBuffer

from mmkerv.engine.checkpoint.allowed_types import BUILDERS, CONTAINERS, allowed_names, check_state, refuse

# They call or import what a pickle names, and no checkpoint has them.
FORBIDDEN = (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID)
# Loaders of the other opcodes, of which RestrictedUnpickler overrides those that call, set a state or fill a container.
UNCHECKED = {code: load for code, load in pickle._Unpickler.dispatch.items() if bytes([code]) not in FORBIDDEN}


def restricted_load(file: IO[bytes]) -> Any:
    """Load a pickle of numbers, strings, arrays and containers.

    Raises:
        pickle.UnpicklingError: if it uses any other name.
        Exception: of any type if the file is damaged.

    Example:
        >>> import io
        >>> restricted_load(io.BytesIO(pickle.dumps([1, 'a'], 2)))
        [1, 'a']
    """
    return RestrictedUnpickler(file).load()


def restricted_pickle(archive: Any = None) -> types.SimpleNamespace:
    """Return a restricted substitute for the pickle module, for ``torch.load(pickle_module=...)``.

    Args:
        archive: reader of the zip file that is loaded. If given, the size that the pickle claims for each storage is
            compared with that of its record, which torch before 2.6 does not do.

    Example:
        >>> import io
        >>> restricted_pickle().load(io.BytesIO(pickle.dumps(print)))
        Traceback (most recent call last):
        ...
        _pickle.UnpicklingError: GLOBAL builtins.print is not allowed
    """
    unpickler = type('Unpickler', (RestrictedUnpickler,), {'archive': archive})
    return types.SimpleNamespace(
        Unpickler=unpickler, load=lambda file, **kwargs: unpickler(file, **kwargs).load(), __name__='restricted pickle'
    )


class RestrictedUnpickler(pickle._Unpickler):
    """Unpickler that checks every call, every state and every container.

    It derives from Python's unpickler written in Python: in the C one, calls and states cannot be overridden.

    Example:
        >>> import io
        >>> RestrictedUnpickler(io.BytesIO(pickle.dumps({'a': 1.5}))).load()
        {'a': 1.5}
    """

    archive: Any = None

    def __init__(self, file: IO[bytes], **kwargs: Any):
        super().__init__(file, **kwargs)
        self._names = allowed_names()

    def find_class(self, module: str, name: str) -> Any:
        """Return the object that a name stands for."""
        # Protocol 2 writes the name that builtins had in Python 2.
        key = f'{module}.{name}'.replace('__builtin__.', 'builtins.')
        if key not in self._names:
            refuse(f'GLOBAL {key}')
        return self._names[key]

    def load_reduce(self) -> None:
        """Call a function of :mod:`~mmkerv.engine.checkpoint.allowed_types`."""
        function, arguments = self.stack[-2:]
        if not isinstance(function, types.FunctionType) or function not in BUILDERS or type(arguments) is not tuple:
            refuse(f'a call of {function!r}')
        super().load_reduce()

    def load_newobj(self) -> None:
        """Create an empty message history or an empty set of arguments."""
        kind, arguments = self.stack[-2:]
        known = kind is HistoryBuffer or kind is argparse.Namespace
        if not known or type(arguments) is not tuple or arguments:
            refuse(f'a new {kind!r}')
        super().load_newobj()

    def load_build(self) -> None:
        """Set the state of an object."""
        check_state(*self.stack[-2:])
        super().load_build()

    def load_binpersid(self) -> None:
        """Load a storage."""
        pid = self.stack[-1]
        is_storage = type(pid) is tuple and len(pid) in (5, 6) and type(pid[0]) is str and pid[0] == 'storage'
        if not is_storage or type(pid[2]) is not str or type(pid[4]) is not int:
            refuse('this persistent id')
        # The sixth entry, in files of the format before zip, makes a view, which dangles once its base storage is
        # resized.
        if len(pid) == 6 and pid[5] is not None:
            refuse('this persistent id')
        if self.archive is not None:
            size = 1 if pid[1] is torch.storage.UntypedStorage else torch._utils._element_size(pid[1].dtype)
            if len(self.archive.get_record(f'data/{pid[2]}')) != pid[4] * size:
                refuse('a storage of another size than its record')
        super().load_binpersid()

    def load_append(self) -> None:
        """Append to a list."""
        _check_container(self.stack[-2], (list,))
        super().load_append()

    def load_appends(self) -> None:
        """Extend a list, which is at the end of the stack below the items."""
        _check_container(self.metastack[-1][-1], (list,))
        super().load_appends()

    def load_additems(self) -> None:
        """Add to a set."""
        _check_container(self.metastack[-1][-1], (set,))
        super().load_additems()

    def load_setitem(self) -> None:
        """Set an item of a dictionary."""
        _check_container(self.stack[-3], CONTAINERS)
        super().load_setitem()

    def load_setitems(self) -> None:
        """Set items of a dictionary."""
        _check_container(self.metastack[-1][-1], CONTAINERS)
        super().load_setitems()

    dispatch = {
        **UNCHECKED,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.BUILD[0]: load_build,
        pickle.BINPERSID[0]: load_binpersid,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
        pickle.ADDITEMS[0]: load_additems,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
    }


def _check_container(container: Any, kinds: tuple[type, ...]) -> None:
    # Exact types: a subclass may have its own append or __setitem__.
    if type(container) not in kinds:
        refuse(f'filling a {type(container).__name__}')
