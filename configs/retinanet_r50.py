# Convolution of Convolution, Table 2, row 1: RetinaNet-R50 on COCO 2017, published box mAP 36.3
# (AP50 55.1, AP75 38.8, APs 20.1, APm 40.1, APl 47.8).
#
# Section 4.2: 1333 x 800, flip only, SGD 0.01 / 0.9 / 1e-4, step at epochs 8 and 11, 12 epochs, four images on each of
# four GPUs. With another number of images add --auto-scale-lr.
#
#   python tools/train.py configs/retinanet_r50.py
#   tools/dist_train.sh configs/retinanet_r50.py 4
#
# The backbone starts from torchvision's ImageNet weights, as in upstream's config. Another checkpoint:
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE
# and model.backbone.init_cfg.prefix=backbone. if it is a whole classifier's.
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', './_base_/no_decay.py']

train_dataloader = dict(batch_size=4, num_workers=4)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001), paramwise_cfg=_base_.no_decay
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
