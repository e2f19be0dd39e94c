# Oriented R-CNN R50 with convolution of convolution in its backbone, on DOTA-v1.0 (rotated boxes). There is no
# published figure of it, and it was not run; mmrotate reports mAP 75.69 for the plain network. Needs mmrotate (pip
# install 'mmkerv[rotate]') and the onedl distribution.
#
# Schedule and data are mmrotate's: SGD 0.005, 12 epochs, two images in a step, data/split_ss_dota. The network starts
# as the plain one with torchvision's weights; upstream freezes the stem and stage 1.
#
#   python tools/train.py configs/oriented_rcnn_r50_coc.py
_base_ = 'mmrotate::oriented_rcnn/oriented-rcnn-le90_r50_fpn_1x_dota.py'

model = dict(backbone=dict(conv_cfg=dict(type='mmkerv.CoCConv')))
optim_wrapper = dict(constructor='mmkerv.OperatorRulesConstructor')
