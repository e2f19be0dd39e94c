# ResNet-18, narrow, on the built-in shapes: pictures of one shape each, 64 x 64 pixels, trained from scratch. The plain
# counterpart of resnet18_coc_shapes.py. Reaches a top-1 accuracy >= 70 %.
#
#   python -m mmkerv.datasets.shapes data/shapes_imagenet --num-train 2000 --num-val 300 --layout imagenet
#   python tools/train.py configs/demo/resnet18_shapes.py
#
# 16 epochs on 2,000 pictures, evaluated on 300 others. Another data folder DIR: --cfg-options data_root=DIR
_base_ = [
    'mmpretrain::_base_/models/resnet18.py',
    '../_base_/datasets/shapes_imagenet.py',
    '../_base_/schedules/shapes.py',
    '../_base_/runtime.py',
]

model = dict(
    backbone=dict(stem_channels=32, base_channels=32),
    head=dict(num_classes=3, in_channels=256, topk=(1,)),
)
auto_scale_lr = dict(base_batch_size=32)
