# UPerNet-R50 with frequency dynamic convolution in its backbone, on ADE20K. The authors (CVPR 2025) report +3.1 mIoU.
# Schedule and data as configs/upernet_r50_ade20k.py.
#
# Where: all convolutions of the bottlenecks, as the authors. The stem is three 3x3 convolutions (ResNetV1c).
#
#   tools/dist_train.sh configs/upernet_r50_fdconv_ade20k.py 4
_base_ = './upernet_r50_ade20k.py'

model = dict(
    backbone=dict(
        type='mmkerv.ResNetV1c',
        conv_cfg=dict(type='mmkerv.FDConv'),
        where=dict(stem=False, names=[r'\.conv\d$']),
        with_cp=True,
    )
)
