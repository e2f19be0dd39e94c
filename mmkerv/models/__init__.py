"""Networks, and placement of operators in them.

``placement`` needs only torch, the networks need mmengine, and the variants need an upstream library.
"""

from mmkerv.distributions import importable
from mmkerv.models.adapters import add_orthogonal_adapters
from mmkerv.models.placement import Where, convert
from mmkerv.models.sharing import share_kernels, share_parameters

__all__ = ['Where', 'add_orthogonal_adapters', 'convert', 'share_kernels', 'share_parameters']

if importable('mmengine'):
    from mmkerv.models.converted import Converted
    from mmkerv.models.lsk_block import LSKBlock
    from mmkerv.models.variants import HRNet, MobileNetV2, MobileNetV3, ResNet, ResNetV1c, ResNetV1d, ShuffleNetV2
    from mmkerv.models.zoo.ckcnn import CKCNN
    from mmkerv.models.zoo.densenet_cifar import DenseNetCifar
    from mmkerv.models.zoo.replknet import RepLKNet
    from mmkerv.models.zoo.resnet_cifar import ResNetCifar
    from mmkerv.models.zoo.timm_backbone import TimmBackbone

    __all__ += ['CKCNN', 'Converted', 'DenseNetCifar', 'HRNet', 'LSKBlock', 'MobileNetV2', 'MobileNetV3', 'ResNet']
    __all__ += ['RepLKNet', 'ResNetCifar', 'ResNetV1c', 'ResNetV1d', 'ShuffleNetV2', 'TimmBackbone']

    if importable('mmcv'):
        from mmkerv.models.zoo.googlenet_cifar import GoogLeNetCifar
        from mmkerv.models.zoo.kernel_size_net import KernelSizeNet
        from mmkerv.models.zoo.lenet import LeNet5Kerv
        from mmkerv.models.zoo.lsknet import LSKNet
        from mmkerv.models.zoo.unireplknet import UniRepLKNet

        __all__ += ['GoogLeNetCifar', 'KernelSizeNet', 'LSKNet', 'LeNet5Kerv', 'UniRepLKNet']
