# Convolution of Convolution, Table 3, row 7: FCN-HRNet18, on VOC 2012 aug. Published mIoU 72.13 % (mAcc 82.33, aAcc
# 93.59). Section 4.2: 512 x 512, SGD 0.01 / 0.9 / 5e-4, poly 0.9 to 1e-4, 20,000 iterations, four images on each of
# four GPUs.
#
# The paper starts from its own classifier (Table 1, row 14); without --cfg-options the backbone starts from upstream's
# ImageNet weights of HRNet18:
#   tools/dist_train.sh configs/imagenet/hrnet18.py 4
#   tools/dist_train.sh configs/fcn_hr18_voc.py 4 --cfg-options \
#     model.backbone.init_cfg.checkpoint=work_dirs/hrnet18/epoch_100.pth model.backbone.init_cfg.prefix=backbone.
_base_ = [
    './_base_/models/fcn_hr18.py',
    './_base_/datasets/voc12aug.py',
    './_base_/schedules/voc_20k.py',
    './_base_/seg_runtime.py',
]
