# Convolution of Convolution, Table 2, row 7: Mask R-CNN-HRNet18, orthogonalised, on COCO 2017. Published mask mAP 35.1
# (AP50 55.8, AP75 37.9, APs 20.0, APm 37.6, APl 47.5). Schedule and data as configs/mask_rcnn_hr18.py. The backbone's
# kernels are orthogonalised, with the weight that the paper of that loss gives.
#
# The backbone starts as mask_rcnn_hr18 does; the paper's start is that of configs/imagenet/hrnet18_orth.py:
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE model.backbone.init_cfg.prefix=backbone.
_base_ = './mask_rcnn_hr18.py'

custom_hooks = [
    dict(type='mmkerv.OrthogonalityHook', weight=0.01, where=dict(names=('^backbone',), kernel_sizes='all', stem=False))
]
