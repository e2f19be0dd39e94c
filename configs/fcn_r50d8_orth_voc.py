# Convolution of Convolution, Table 3, row 4: FCN-R50-d8, orthogonalised, on VOC 2012 aug. Published mIoU 69.01 % (mAcc
# 78.36, aAcc 92.62). Schedule and data as configs/fcn_r50d8_voc.py. The backbone's kernels are orthogonalised,
# with the weight that the paper of that loss gives.
#
# The paper starts from the classifier trained with the same loss; without --cfg-options the backbone starts as in
# configs/fcn_r50d8_voc.py:
#   tools/dist_train.sh configs/imagenet/resnet50_orth.py 4
#   tools/dist_train.sh configs/fcn_r50d8_orth_voc.py 4 --cfg-options \
#     model.backbone.init_cfg.checkpoint=work_dirs/resnet50_orth/epoch_100.pth model.backbone.init_cfg.prefix=backbone.
_base_ = './fcn_r50d8_voc.py'

custom_hooks = [
    dict(type='mmkerv.OrthogonalityHook', weight=0.01, where=dict(names=('^backbone',), kernel_sizes='all', stem=False))
]
