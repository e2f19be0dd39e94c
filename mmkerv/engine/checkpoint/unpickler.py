"""An unpickler for tensors, numbers, strings, containers and mmengine's message history: nothing else is built.

A pickle is a program. What it may name is not enough to make it harmless: it also chooses the arguments of what it
calls, what it fills in and with which state, and what it appends to. All of that is looked at.
"""

import pickle
import types
from typing import IO, Any

import torch
from mmengine.logging import HistoryBuffer

from mmkerv.engine.checkpoint.allowed_types import BUILDERS, CONTAINERS, check_state, names, refuse


def restricted_load(file: IO[bytes]) -> Any:
    """Read a pickle of numbers, strings, arrays and containers.

    Raises:
        Exception: whatever a damaged file ends in; ``pickle.UnpicklingError`` for one that names anything else.

    Example:
        >>> import io
        >>> restricted_load(io.BytesIO(pickle.dumps([1, 'a'], 2)))
        [1, 'a']
    """
    return RestrictedUnpickler(file).load()


def restricted_pickle(archive: Any = None) -> types.SimpleNamespace:
    """Return a stand-in for the pickle module, as ``torch.load`` takes one, that builds only what is allowed.

    Args:
        archive: reader of the zip file that is loaded. Each tensor's record is compared with the size that the pickle
            claims for it, which torch before 2.6 does not do.

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


# Python's own unpickler in Python: the one in C calls, and fills in, whatever a pickle has put on its stack.
class RestrictedUnpickler(pickle._Unpickler):
    """See :func:`restricted_load`.

    Example:
        >>> import io
        >>> RestrictedUnpickler(io.BytesIO(pickle.dumps({'a': 1.5}))).load()
        {'a': 1.5}
    """

    archive: Any = None
    dispatch = pickle._Unpickler.dispatch.copy()

    def __init__(self, file: IO[bytes], **kwargs: Any):
        super().__init__(file, **kwargs)
        self._names = names()

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for."""
        # Protocol 2 writes Python 2's name of builtins.
        key = f'{module}.{name}'.replace('__builtin__.', 'builtins.')
        if key not in self._names:
            refuse(f'GLOBAL {key}')
        return self._names[key]

    def load_reduce(self) -> None:
        """Call a function of ours."""
        function, arguments = self.stack[-2:]
        if not isinstance(function, types.FunctionType) or function not in BUILDERS or type(arguments) is not tuple:
            refuse(f'a call of {function!r}')
        super().load_reduce()

    def load_newobj(self) -> None:
        """Make an empty message history."""
        kind, arguments = self.stack[-2:]
        if kind is not HistoryBuffer or type(arguments) is not tuple or arguments:
            refuse(f'a new {kind!r}')
        super().load_newobj()

    def load_build(self) -> None:
        """Fill in what is known."""
        check_state(*self.stack[-2:])
        super().load_build()

    def load_binpersid(self) -> None:
        """Take a storage."""
        pid = self.stack[-1]
        # Five of a zip file, six of an older one, the last a view: it dangles when what it is of grows.
        plain = type(pid) is tuple and len(pid) in (5, 6) and type(pid[0]) is str and pid[0] == 'storage'
        if not plain or (len(pid) == 6 and pid[5] is not None) or type(pid[2]) is not str or type(pid[4]) is not int:
            refuse('this persistent id')
        if self.archive is not None:
            size = 1 if pid[1] is torch.storage.UntypedStorage else torch._utils._element_size(pid[1].dtype)
            if len(self.archive.get_record(f'data/{pid[2]}')) != pid[4] * size:
                refuse('a storage of another size than its record')
        super().load_binpersid()

    def load_append(self) -> None:
        """Append to a list."""
        self._fill(self.stack[-2], (list,))
        super().load_append()

    def load_appends(self) -> None:
        """Append to a list; the items are a stack of their own above it."""
        self._fill(self.metastack[-1][-1], (list,))
        super().load_appends()

    def load_additems(self) -> None:
        """Add to a set."""
        self._fill(self.metastack[-1][-1], (set,))
        super().load_additems()

    def load_setitem(self) -> None:
        """Put into a dictionary."""
        self._fill(self.stack[-3], CONTAINERS)
        super().load_setitem()

    def load_setitems(self) -> None:
        """Put into a dictionary."""
        self._fill(self.metastack[-1][-1], CONTAINERS)
        super().load_setitems()

    def _fill(self, container: Any, kinds: tuple[type, ...]) -> None:
        if type(container) not in kinds:
            refuse(f'filling a {type(container).__name__}')

    for _name in ('reduce', 'newobj', 'build', 'binpersid', 'append', 'appends', 'additems', 'setitem', 'setitems'):
        dispatch[getattr(pickle, _name.upper())[0]] = locals()[f'load_{_name}']
    for _code in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID):
        del dispatch[_code[0]]
    del _name, _code
