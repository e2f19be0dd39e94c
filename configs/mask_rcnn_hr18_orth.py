# Convolution of Convolution, Table 2, row 7: Mask R-CNN-HRNet18, orthogonalised, on COCO 2017. Published mask mAP 35.1
# (AP50 55.8, AP75 37.9, APs 20.0, APm 37.6, APl 47.5). Schedule and data as configs/mask_rcnn_hr18.py. The backbone's
# kernels are orthogonalised, with the weight that the paper of that loss gives.
#
# The paper starts from the classifier trained with the same loss; without --cfg-options the backbone starts as in
# configs/mask_rcnn_hr18.py:
#   tools/dist_train.sh configs/imagenet/hrnet18_orth.py 4
#   tools/dist_train.sh configs/mask_rcnn_hr18_orth.py 4 --cfg-options \
#     model.backbone.init_cfg.checkpoint=work_dirs/hrnet18_orth/epoch_100.pth model.backbone.init_cfg.prefix=backbone.
_base_ = './mask_rcnn_hr18.py'

custom_hooks = [
    dict(type='mmkerv.OrthogonalityHook', weight=0.01, where=dict(names=('^backbone',), kernel_sizes='all', stem=False))
]
