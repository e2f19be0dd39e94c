# RetinaNet-R18 on the built-in shapes data, trained from scratch: the plain counterpart of retinanet_coc_shapes.py.
# Reaches box mAP_50 >= 0.6.
#
#   python -m mmkerv.datasets.shapes data/shapes --layout coco
#   python tools/train.py configs/demo/retinanet_shapes.py
#
# 800 iterations and one evaluation on 100 held-out scenes, about 4 minutes on 2 CPU cores. Another data folder DIR:
# --cfg-options data_root=DIR
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/datasets/shapes_coco.py',
    '../_base_/schedules/shapes.py',
    'mmdet::_base_/default_runtime.py',
]

# Upstream freezes the stem, stage 1 and the statistics of BN at ImageNet's; here nothing is frozen, since nothing is
# loaded.
model = dict(
    backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128, norm_cfg=dict(type='BN')),
    bbox_head=dict(
        num_classes=3,
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=16),
        # Half of upstream's: the smallest anchors are 16 pixels wide, and the shapes 17 to 80.
        anchor_generator=dict(octave_base_scale=2),
    ),
)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=16))
log_processor = dict(window_size=20)
