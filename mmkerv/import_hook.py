"""Act after a library has been imported, without importing it."""

import sys
from collections.abc import Callable, Sequence
from importlib import util
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def after_import(name: str, action: Callable[[], None]) -> None:
    """Call a function once a module has been imported: now, or right after its first import.

    Until then a finder stands first in ``sys.meta_path``.

    Args:
        name: name of a top-level module.
        action: the function. What it raises, the import of the module raises.

    Example:
        >>> after_import('sys', lambda: print('sys is there'))
        sys is there
    """
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Finder(name, action))


class _Finder(MetaPathFinder):
    """Finder that leaves the search for the module to the other ones and calls the function once the module has run."""

    def __init__(self, name: str, action: Callable[[], None]):
        self.name, self.action = name, action
        self.searching = self.done = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of the module with a loader that calls the function; ``None`` for any other module."""
        if fullname != self.name or self.searching or self.done:
            return None
        self.searching = True
        try:
            spec = util.find_spec(fullname)
        finally:
            self.searching = False
        # A folder without code has no loader.
        if spec is not None and spec.loader is not None:
            self._extend(spec.loader)
        return spec

    def _extend(self, loader: Any) -> None:
        run = loader.exec_module

        def run_and_act(module: ModuleType) -> None:
            run(module)
            if not self.done:
                self.done = True
                sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
                self.action()

        loader.exec_module = run_and_act
