# RetinaNet on the shapes with UniRepLKNet-A as backbone: depthwise kernels of 13x13 with dilated branches, which fold
# into one each; tools/model_converters/reparameterize_model.py merges the norms of its blocks as well. 8 epochs
# instead of 16, because on a CPU an iteration takes three times as long as with ResNet-18.
#
#   python -m mmkerv.datasets.shapes data/shapes --layout coco
#   python tools/train.py configs/demo/retinanet_unireplknet_shapes.py
_base_ = './retinanet_half_shapes.py'

custom_imports = dict(imports=['mmkerv'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True, type='mmkerv.UniRepLKNet', arch='A', out_indices=(0, 1, 2, 3), gap_before_final_norm=False
    ),
    neck=dict(in_channels=[40, 80, 160, 320]),
)

train_cfg = dict(max_epochs=8, val_interval=8)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0, begin=1, end=8, by_epoch=True, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(interval=8))
