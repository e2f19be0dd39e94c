"""Refuse to build operators while another library merges branches that hold operators."""

import sys

from torch import nn

from mmkerv.errors import FoldError

# Methods with which networks such as RepVGG merge the branches of their blocks into one convolution.
DEPLOY_STEPS = ('switch_to_deploy', 'reparameterize', 'local_inject', 'merge_kernel')
# Calls between such a method and an operator's constructor, at most.
_DEPTH = 12


def refuse_in_deploy_step(operator: str, kind: type[nn.Module]) -> None:
    """Raise if a method of :data:`DEPLOY_STEPS` is building an operator, as upstream's RepVGG does from its conv_cfg.

    The method has read ``weight`` of the operators as if these were kernels by then, and writes the sum of the branches
    into the new operator; nothing in the block has changed yet. Only methods of modules that hold operators are
    refused: a function of the same name may build operators.

    Args:
        operator: name of the class that is being built, for the message.
        kind: base class of all operators.

    Raises:
        FoldError: in such a method.

    Example:
        >>> refuse_in_deploy_step('CoCConv2d', nn.Module)
    """
    frame = sys._getframe(1)
    for _ in range(_DEPTH):
        if frame is None:
            return
        if frame.f_code.co_name in DEPLOY_STEPS and _holds(frame.f_locals.get('self'), kind):
            raise FoldError(
                f'{frame.f_code.co_name}() merges branches that hold {operator} by their `weight`, which is not their '
                'kernel. Fold the operators first: mmkerv.ops.switch_to_deploy(model)'
            )
        frame = frame.f_back


def _holds(value: object, kind: type[nn.Module]) -> bool:
    return isinstance(value, nn.Module) and any(isinstance(module, kind) for module in value.modules())
