"""Refuse to build operators while another library merges branches that hold operators."""

import sys

from mmkerv.errors import FoldError

# Methods with which networks such as RepVGG merge the branches of their blocks into one convolution.
DEPLOY_STEPS = ('switch_to_deploy', 'reparameterize', 'local_inject', 'merge_kernel')
# Calls between such a method and an operator's constructor, at most.
_DEPTH = 12


def refuse_in_deploy_step(operator: str) -> None:
    """Raise if a method of :data:`DEPLOY_STEPS` is building an operator, as upstream's RepVGG does from its conv_cfg.

    The method has read ``weight`` of the operators as if these were kernels by then, and writes the sum of the branches
    into the new operator; nothing in the block has changed yet.

    Args:
        operator: name of the class that is being built, for the message.

    Raises:
        FoldError: in such a method.

    Example:
        >>> refuse_in_deploy_step('CoCConv2d')
    """
    frame = sys._getframe(1)
    for _ in range(_DEPTH):
        if frame is None:
            return
        if frame.f_code.co_name in DEPLOY_STEPS and not frame.f_globals['__name__'].startswith('mmkerv.'):
            raise FoldError(
                f'{frame.f_code.co_name}() merges branches that hold {operator} by their `weight`, which is not their '
                'kernel. Fold the operators first: mmkerv.ops.switch_to_deploy(model)'
            )
        frame = frame.f_back
