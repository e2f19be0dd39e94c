"""Networks and the placement rule. ``placement`` needs torch alone, the backbones need mmengine and a host library."""

from importlib.util import find_spec

from .placement import Where, convert

__all__ = ['Where', 'convert']

if find_spec('mmengine') is not None:
    from .resnet import ResNet

    __all__ += ['ResNet']
