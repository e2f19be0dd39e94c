"""Networks and the placement rule. ``placement`` needs torch alone, the backbones need mmengine and a host library."""

from importlib.util import find_spec

from .placement import Where, convert

__all__ = ['Where', 'convert']

if find_spec('mmengine') is not None:
    from .ckcnn import CKCNN
    from .converted import Converted
    from .densenet_cifar import DenseNetCifar
    from .resnet_cifar import ResNetCifar
    from .variants import HRNet, MobileNetV2, MobileNetV3, ResNet, ResNetV1c, ResNetV1d, ShuffleNetV2

    __all__ += ['CKCNN', 'Converted', 'DenseNetCifar', 'HRNet', 'MobileNetV2', 'MobileNetV3', 'ResNet', 'ResNetCifar']
    __all__ += ['ResNetV1c', 'ResNetV1d', 'ShuffleNetV2']

    if find_spec('mmcv') is not None:
        from .googlenet_cifar import GoogLeNetCifar
        from .lenet import LeNet5Kerv

        __all__ += ['GoogLeNetCifar', 'LeNet5Kerv']
