# Convolution of Convolution, Table 3, row 1: FCN-R50-d8, on VOC 2012 aug. Published mIoU 66.97 % (mAcc 75.99, aAcc
# 92.16). Section 4.2: 512 x 512, SGD 0.01 / 0.9 / 5e-4, poly 0.9 to 1e-4, 20,000 iterations, four images on each of
# four GPUs.
#
# The paper starts from its own classifier (Table 1, row 6); without --cfg-options the backbone starts from
# torchvision's ImageNet weights:
#   tools/dist_train.sh configs/imagenet/resnet50_nesterov.py 4
#   tools/dist_train.sh configs/fcn_r50d8_voc.py 4 --cfg-options \
#     model.backbone.init_cfg.checkpoint=work_dirs/resnet50_nesterov/epoch_100.pth \
#     model.backbone.init_cfg.prefix=backbone.
_base_ = [
    './_base_/models/fcn_r50-d8.py',
    './_base_/datasets/voc12aug.py',
    './_base_/schedules/voc_20k.py',
    './_base_/seg_runtime.py',
]
