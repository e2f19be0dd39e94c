"""Convolutions that are parts of a layer which is itself kept: offsets of deformable layers, attention in plugins.

Such a convolution computes sampling points, kernels or attention, often starts at zero, and libraries look for it by
class and name (mmengine's ``dcn_offset_lr_mult``), so it stays plain unless it is selected by its own name.
"""

import re
from collections.abc import Iterator

from torch import nn
from torch.nn.parameter import is_lazy

from mmkerv.models.replacement import is_plain
from mmkerv.ops.core.base import ConvNd

# Layers whose convolutions are all kept, by library; a subclass counts as its base. Squeeze-and-excitation is not here:
# its 1x1 convolutions are selected only if 1x1 ones are asked for.
KEPT_LAYERS = {
    'mmcv': ('CARAFEPack', 'ContextBlock', 'CrissCrossAttention', 'GeneralizedAttention', '_NonLocalNd'),
    'mmkerv': ('LSKBlock',),
    'timm': (
        'BatNonLocalAttn', 'BilinearAttnTransform', 'BottleneckAttn', 'CbamModule', 'GlobalContext', 'HaloAttn',
        'LambdaLayer', 'LightCbamModule', 'NonLocalAttn',
    ),
}  # fmt: skip
# Children that predict kernels or sampling points for a function, so that no layer beside them shows it.
KEPT_CHILDREN = {
    'mmdet': {'TOODHead': ('reg_offset_module',)},
    'mmseg': {'DCM': ('filter_gen_conv',)},
}
_DEFORMABLE = re.compile('Deform|DCN')


def kept_by(model: nn.Module) -> dict[nn.Module, str]:
    """Return the convolutions inside kept layers, each with the name of the layer that holds it.

    Args:
        model: any network.

    Example:
        >>> class Switchable(nn.Conv2d):
        ...     def __init__(self):
        ...         super().__init__(4, 4, 3)
        ...         self.switch = nn.Conv2d(4, 1, 1)
        >>> list(kept_by(nn.Sequential(Switchable())).values())
        ['0']
    """
    kept: dict[nn.Module, str] = {}
    for name, module in model.named_modules():
        for part in _kept_parts(module):
            for conv in part.modules():
                if isinstance(conv, nn.Conv2d) and conv is not module:
                    kept.setdefault(conv, name)
    return kept


def _kept_parts(module: nn.Module) -> Iterator[nn.Module]:
    """Yield ``module`` itself if it is a kept layer, else those of its children that are parts of one."""
    libraries = [(kind.__module__.partition('.')[0], kind.__name__) for kind in type(module).__mro__]
    if _has_kernel(module) or any(name in KEPT_LAYERS.get(library, ()) for library, name in libraries):
        yield module
        return
    names = {child for library, name in libraries for child in KEPT_CHILDREN.get(library, {}).get(name, ())}
    children = {name: child for name, child in module.named_children() if name in names or 'offset' in name.lower()}
    # A convolution called offset beside a deformable layer predicts where that layer samples.
    if children.keys() - names and not any(_DEFORMABLE.search(type(m).__name__) for m in module.modules()):
        children = {name: child for name, child in children.items() if name in names}
    yield from children.values()


def _has_kernel(module: nn.Module) -> bool:
    """Return whether ``module`` is a convolution of another class than nn.Conv2d, with a kernel of its own."""
    if isinstance(module, nn.Conv2d):
        return not is_plain(module)
    if isinstance(module, ConvNd):
        return True
    # Not getattr: a parametrized weight would be computed.
    weight = module._parameters.get('weight')
    return hasattr(module, 'kernel_size') and weight is not None and not is_lazy(weight) and weight.dim() > 3
