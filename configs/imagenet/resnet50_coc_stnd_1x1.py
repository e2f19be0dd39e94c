# Convolution of Convolution, Table 1, row 8, read otherwise: ResNet50, CoC, standardised, with the 1x1 convolutions
# standardised too, as in the rows without CoC. The paper does not say; the authors' code leaves them plain unless asked
# (configs/imagenet/resnet50_coc_stnd.py).
#
#   tools/dist_train.sh configs/imagenet/resnet50_coc_stnd_1x1.py 4
_base_ = './resnet50_coc_stnd.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmkerv.Converted',
        backbone=dict(
            type='ResNet',
            depth=50,
            num_stages=4,
            out_indices=(3,),
            style='pytorch',
            conv_cfg=dict(type='mmkerv.CoCConv', super_init='kaiming', standardize=True),
        ),
        conv_cfg=dict(type='ConvWS'),
        where=dict(kernel_sizes=(1,)),
    )
)
