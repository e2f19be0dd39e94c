# Dilated Convolution with Learnable Spacings (ICLR 2023), README of ConvNeXt-dcls: ConvNeXt-S-dcls on ImageNet-1k.
# Published top-1 accuracy 83.7 %; we did not repeat it. As convnext_tiny_dcls.py, with 40 taps.
#
#   tools/dist_train.sh configs/imagenet/convnext_small_dcls.py 32
_base_ = './convnext_tiny_dcls.py'

model = dict(backbone=dict(model=dict(arch='small', drop_path_rate=0.4), conv_cfg=dict(points=40)))
