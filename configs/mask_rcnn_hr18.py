# Convolution of Convolution, Table 2, row 5: Mask R-CNN-HRNet18, on COCO 2017. Published mask mAP 33.9 (AP50 54.3, AP75
# 36.3, APs 18.9, APm 36.4, APl 45.8).
#
# Section 4.2: 1333 x 800, flip only, SGD 0.01 / 0.9 / 1e-4, step at epochs 8 and 11, 12 epochs, four images on each of
# four GPUs. With another number of images add --auto-scale-lr.
#
# The paper starts from its own classifier (Table 1, row 14); without --cfg-options the backbone starts from upstream's
# ImageNet weights of HRNet18:
#   tools/dist_train.sh configs/imagenet/hrnet18.py 4
#   tools/dist_train.sh configs/mask_rcnn_hr18.py 4 --cfg-options \
#     model.backbone.init_cfg.checkpoint=work_dirs/hrnet18/epoch_100.pth model.backbone.init_cfg.prefix=backbone.
_base_ = 'mmdet::hrnet/mask-rcnn_hrnetv2p-w18-1x_coco.py'

train_dataloader = dict(batch_size=4, num_workers=4)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001),
    constructor='mmkerv.OperatorRulesConstructor',
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
