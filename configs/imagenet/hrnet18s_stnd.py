# Convolution of Convolution, Table 1, row 12: HRNet18-s, standardised, on ImageNet. Published top-1 accuracy 74.59 %
# (+- 0.009). Weight standardisation of every convolution by mmcv. Upstream's HRNet does not pass conv_cfg on to its
# first stage; mmkerv.HRNet reaches it.
#
#   tools/dist_train.sh configs/imagenet/hrnet18s_stnd.py 4
_base_ = './hrnet18s.py'

model = dict(
    backbone=dict(type='mmkerv.HRNet', conv_cfg=dict(type='ConvWS'), where=dict(kernel_sizes='all')),
)
