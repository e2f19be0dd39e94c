# Convolution of Convolution, Table 2, row 3: RetinaNet-R50, orthogonalised, on COCO 2017. Published box mAP 37.6 (AP50
# 56.4, AP75 40.7, APs 21.0, APm 41.9, APl 49.9). Schedule and data as configs/retinanet_r50.py. The backbone's kernels
# are orthogonalised, with the weight that the paper of that loss gives.
#
# The paper starts from the classifier trained with the same loss; without --cfg-options the backbone starts as in
# configs/retinanet_r50.py:
#   tools/dist_train.sh configs/imagenet/resnet50_orth.py 4
#   tools/dist_train.sh configs/retinanet_r50_orth.py 4 --cfg-options \
#     model.backbone.init_cfg.checkpoint=work_dirs/resnet50_orth/epoch_100.pth model.backbone.init_cfg.prefix=backbone.
_base_ = './retinanet_r50.py'

custom_hooks = [
    dict(type='mmkerv.OrthogonalityHook', weight=0.01, where=dict(names=('^backbone',), kernel_sizes='all', stem=False))
]
