# Dilated Convolution with Learnable Spacings (ICLR 2023), README of ConvNeXt-dcls: ConvNeXt-B-dcls on ImageNet-1k.
# Published top-1 accuracy 84.1 %; we did not repeat it. As convnext_tiny_dcls.py, with 40 taps.
#
#   tools/dist_train.sh configs/imagenet/convnext_base_dcls.py 32
_base_ = './convnext_tiny_dcls.py'

model = dict(
    backbone=dict(model=dict(arch='base', drop_path_rate=0.5), conv_cfg=dict(points=40)), head=dict(in_channels=1024)
)
