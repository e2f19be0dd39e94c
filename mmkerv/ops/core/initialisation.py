"""Operators as plain convolutions for libraries that initialise a network, or ask whether a layer is a convolution.

Libraries initialise by ``isinstance(m, nn.Conv2d)``, or draw all parameters of more than one axis. For the first an
operator is no convolution, and for the second its own parameters (super layers, experts, positions) are parameters as
any others. Both leave an operator network with other weights than the plain network of the same seed.
"""

from collections import UserDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import nn

# mmengine sets this attribute on every module when it begins to initialise a network, and deletes it when it is done.
RECORD = '_params_init_info'
# Marks an operator that became a plain convolution with it.
BEGUN = '_initialised_as_plain'


class InitialisedAsPlain:
    """Mixin for operators that are ``nn.Conv2d`` to mmengine's ``init_weights``, from its beginning to its end.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> op = CoCConv2d(3, 8, 3); op._params_init_info = {}
        >>> isinstance(op, nn.Conv2d), len(list(op.parameters()))
        (True, 2)
        >>> del op._params_init_info
        >>> isinstance(op, nn.Conv2d), len(list(op.parameters()))
        (False, 3)
    """

    @property
    def _params_init_info(self) -> Any:
        if RECORD not in self.__dict__:
            raise AttributeError(f'{type(self).__name__!r} object has no attribute {RECORD!r}')
        return self.__dict__[RECORD]

    @_params_init_info.setter
    def _params_init_info(self, record: Any) -> None:
        if RECORD not in self.__dict__ and not hasattr(type(self), 'operator_class'):
            self.__class__ = as_plain(type(self), self.weight is not None, hide=True)
            self.__dict__[BEGUN] = True
        self.__dict__[RECORD] = record

    @_params_init_info.deleter
    def _params_init_info(self) -> None:
        # mmengine has set it on the submodules too, which are hidden from it now.
        for _, module in nn.Module.named_modules(self):
            module.__dict__.pop(RECORD, None)
        # Inside a block of `plain_convolutions`, the block gives the class back.
        if self.__dict__.pop(BEGUN, False):
            self.__class__ = type(self).operator_class


@contextmanager
def plain_convolutions(model: nn.Module, hide: bool = True) -> Iterator[None]:
    """Make the operators of a model instances of ``nn.Conv2d`` inside the block.

    Operators without a basic kernel are none: they have no weight that a plain initialiser could set.

    Only the class of the live operator is replaced, by a subclass of it. A stand-in convolution with the operator's
    parameters would not do: checkpoints are loaded inside the block too (``init_cfg=dict(type='Pretrained')``), into
    all parameters of the operator and by the operator's own rules.

    Args:
        model: network; its operators have their own classes again after the block.
        hide: hide the operators' submodules (super layers) from ``modules()``, and all parameters but ``weight`` and
            ``bias`` from ``parameters()``: they keep their start, and no random numbers are drawn for them.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> net = nn.Sequential(CoCConv2d(3, 8, 3))
        >>> with plain_convolutions(net):
        ...     print(isinstance(net[0], nn.Conv2d))
        True
        >>> isinstance(net[0], nn.Conv2d)
        False
    """
    operators = {
        m: type(m)
        for m in model.modules()
        # In a block inside another one they are plain already.
        if hasattr(type(m), RECORD) and not hasattr(type(m), 'operator_class')
    }
    try:
        for operator, kind in operators.items():
            operator.__class__ = as_plain(kind, operator.weight is not None, hide)
        yield
    finally:
        for operator, kind in operators.items():
            operator.__class__ = kind


@contextmanager
def own_classes(model: nn.Module) -> Iterator[None]:
    """Give operators their own classes back while the network is initialised, to look at all of their parameters.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> net = nn.Sequential(CoCConv2d(3, 8, 3))
        >>> with plain_convolutions(net), own_classes(net):
        ...     print(type(net[0]).__name__)
        CoCConv2d
    """
    replaced = {m: type(m) for m in model.modules() if hasattr(type(m), 'operator_class')}
    try:
        for operator, kind in replaced.items():
            operator.__class__ = kind.operator_class
        yield
    finally:
        for operator, kind in replaced.items():
            operator.__class__ = kind


@cache
def as_plain(kind: type[nn.Module], has_weight: bool, hide: bool) -> type[nn.Module]:
    """Return a subclass of an operator's class that also derives from ``nn.Conv2d``, behind the operator.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> issubclass(as_plain(CoCConv2d, has_weight=True, hide=True), nn.Conv2d)
        True
    """
    members: dict[str, Any] = {'operator_class': kind}
    if hide:
        members['named_modules'] = _only_itself
        members['_parameters'] = property(_BasicParameters.of)
        # A checkpoint that is loaded meanwhile sets them all.
        for name in ('_load_from_state_dict', '_save_to_state_dict', '_apply'):
            members[name] = _with_all_parameters(name)
    # mmengine's initialisers match the name of a class as well.
    return type('Conv2d', (kind, nn.Conv2d) if has_weight else (kind,), members)


class _BasicParameters(UserDict):
    """An operator's parameters by name, of which iteration shows ``weight`` and ``bias`` alone."""

    @classmethod
    def of(cls, operator: nn.Module) -> '_BasicParameters':
        view = cls()
        # Not a copy: what is set here is a parameter of the operator.
        view.data = operator.__dict__['_parameters']
        return view

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.data if name in ('weight', 'bias'))


def _with_all_parameters(name: str) -> Callable[..., Any]:
    def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        kind = type(self)
        self.__class__ = kind.operator_class
        try:
            return getattr(self, name)(*args, **kwargs)
        finally:
            self.__class__ = kind

    return method


def _only_itself(
    self: nn.Module, memo: set | None = None, prefix: str = '', remove_duplicate: bool = True
) -> Iterator[tuple[str, nn.Module]]:
    memo = set() if memo is None else memo
    if self not in memo:
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
