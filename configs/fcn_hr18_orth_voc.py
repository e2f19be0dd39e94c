# Convolution of Convolution, Table 3, row 10: FCN-HRNet18, orthogonalised, on VOC 2012 aug. Published mIoU 74.17 %
# (mAcc 84.84, aAcc 93.88). Schedule and data as configs/fcn_hr18_voc.py. The backbone's kernels are
# orthogonalised, with the weight that the paper of that loss gives.
#
# The paper starts from the classifier trained with the same loss; without --cfg-options the backbone starts as in
# configs/fcn_hr18_voc.py:
#   tools/dist_train.sh configs/imagenet/hrnet18_orth.py 4
#   tools/dist_train.sh configs/fcn_hr18_orth_voc.py 4 --cfg-options \
#     model.backbone.init_cfg.checkpoint=work_dirs/hrnet18_orth/epoch_100.pth model.backbone.init_cfg.prefix=backbone.
_base_ = './fcn_hr18_voc.py'

custom_hooks = [
    dict(type='mmkerv.OrthogonalityHook', weight=0.01, where=dict(names=('^backbone',), kernel_sizes='all', stem=False))
]
