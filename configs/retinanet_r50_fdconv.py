# RetinaNet-R50 on COCO 2017 with frequency dynamic convolution in its backbone, as configs/faster_rcnn_r50_fdconv.py
# has it. No published figure. Schedule and data as configs/retinanet_r50.py.
#
#   tools/dist_train.sh configs/retinanet_r50_fdconv.py 4
_base_ = './retinanet_r50.py'

model = dict(
    backbone=dict(
        type='mmkerv.ResNet',
        conv_cfg=dict(type='mmkerv.FDConv'),
        where=dict(stages=(2, 3, 4), stem=False, names=[r'\.conv\d$']),
        with_cp=True,
    )
)
