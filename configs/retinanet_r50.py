# Convolution of Convolution, Table 2, row 1: RetinaNet-R50 on COCO 2017, published box mAP 36.3
# (AP50 55.1, AP75 38.8, APs 20.1, APm 40.1, APl 47.8).
#
# Section 4.2: 1333 x 800, flip only, SGD 0.01 / 0.9 / 1e-4, step at epochs 8 and 11, 12 epochs, four images on each of
# four GPUs. With another number of images add --auto-scale-lr.
#
# The paper starts from its own classifier (Table 1, row 6); without --cfg-options the backbone starts from
# torchvision's ImageNet weights, as in upstream's config:
#   tools/dist_train.sh configs/imagenet/resnet50_nesterov.py 4
#   tools/dist_train.sh configs/retinanet_r50.py 4 --cfg-options \
#     model.backbone.init_cfg.checkpoint=work_dirs/resnet50_nesterov/epoch_100.pth \
#     model.backbone.init_cfg.prefix=backbone.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'

train_dataloader = dict(batch_size=4, num_workers=4)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001),
    constructor='mmkerv.OperatorRulesConstructor',
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
