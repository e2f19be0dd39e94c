# FCN-R18-d8, narrow, on the built-in shapes data, trained from scratch: the plain counterpart of fcn_coc_shapes.py.
# Reaches mIoU >= 70 %.
#
#   python -m mmkerv.datasets.shapes data/shapes
#   python tools/train.py configs/demo/fcn_shapes.py
#
# 800 iterations and one evaluation on 100 held-out scenes. Another data folder DIR: --cfg-options
# data_root=DIR/VOCdevkit/VOC2012
_base_ = [
    '../_base_/models/fcn_r50-d8.py',
    '../_base_/datasets/shapes_voc.py',
    '../_base_/schedules/shapes.py',
    '../_base_/seg_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(init_cfg=None, depth=18, stem_channels=32, base_channels=32, norm_cfg=dict(type='BN')),
    decode_head=dict(in_channels=256, channels=64, num_classes=4, norm_cfg=dict(type='BN')),
    auxiliary_head=dict(in_channels=128, channels=32, num_classes=4, norm_cfg=dict(type='BN')),
)
default_hooks = dict(logger=dict(interval=20, log_metric_by_epoch=True), checkpoint=dict(by_epoch=True, interval=16))
log_processor = dict(by_epoch=True, window_size=20)
