"""Libraries whose networks merge norms or branches by themselves, reading ``weight`` as the kernel."""

from torch import nn

from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.deploy_step import DEPLOY_STEPS
from mmkerv.ops.core.fold import FoldFirst

# Methods that do it, by library, beside those that mean it everywhere. A `fuse` of another library may fuse features.
FUSING_STEPS = {
    'mmpretrain': ('fuse',),
    'super_gradients': (
        'fuse_block_residual_branches', 'full_fusion', 'partial_fusion', 'prep_model_for_conversion',
    ),
    'timm': ('fuse',),
    'ultralytics': ('fuse', 'fuse_convs'),
}  # fmt: skip


def fold_before_fusing(model: nn.Module) -> list[str]:
    """Let every such step of a network that holds operators fold these first, see :class:`FoldFirst`.

    Args:
        model: any network; attributes of its modules are set.

    Returns:
        The changed methods, as ``Class.method()``, each once.

    Example:
        >>> fold_before_fusing(nn.Sequential(nn.Conv2d(3, 8, 3)))
        []
    """
    changed: dict[str, None] = {}
    for module in model.modules():
        steps = _steps(type(module))
        if not (steps and any(isinstance(m, ConvNd) for m in module.modules())):
            continue
        for step, owner in steps.items():
            if step not in vars(module):
                setattr(module, step, FoldFirst(module, step))
            changed[f'{owner.__name__}.{step}()'] = None
    return list(changed)


def _steps(kind: type[nn.Module]) -> dict[str, type]:
    """Return the steps of a class, each with the class that defines it; those of mmkerv's own networks fold."""
    steps = {}
    for owner in reversed(kind.__mro__):
        names = (*DEPLOY_STEPS, *FUSING_STEPS.get(owner.__module__.partition('.')[0], ()))
        steps.update({name: owner for name in names if callable(vars(owner).get(name))})
    return {name: owner for name, owner in steps.items() if not owner.__module__.startswith('mmkerv.')}
