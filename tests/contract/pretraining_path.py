"""Small configs for pretraining and fine-tuning: a classifier on Tiny ImageNet and networks that start from it."""

from pathlib import Path

PRETRAIN = """
_base_ = 'mmkerv::tiny_imagenet/resnet18_coc_tiny_imagenet.py'

data_root = '{data}/tiny_imagenet_20'
data_preprocessor = dict(num_classes=20)
model = dict(head=dict(num_classes=20))
loading = dict(num_workers=0, persistent_workers=False)
# Enough small batches for the statistics of batch norm, which detectors freeze.
chosen = list(range(0, 3000, 3000 // {images}))
train_dataloader = dict(batch_size=8, dataset=dict(data_root=data_root, indices=chosen), **loading)
val_dataloader = dict(dataset=dict(data_root=data_root, indices=list(range(0, 500, 5))), **loading)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs={epochs})
optim_wrapper = dict(optimizer=dict(lr=0.01))
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(save_best=None))
"""
# Batch statistics must follow the weights within a few steps: after many layers of stale ones nothing is finite.
HRNET = """
optim_wrapper = dict(optimizer=dict(lr=0.001))
model['_delete_'] = True
model.update(
    type='ImageClassifier',
    backbone=dict(
        type='mmkerv.HRNet',
        arch='w18',
        conv_cfg=dict(type='mmkerv.CoCConv', super_init='kaiming'),
        norm_cfg=dict(type='BN', momentum=0.5),
    ),
    neck=[dict(type='HRFuseScales', in_channels=(18, 36, 72, 144)), dict(type='GlobalAveragePooling')],
    head=dict(type='LinearClsHead', in_channels=2048, num_classes=20, topk=(1, 5)),
)
"""
START = """
start = dict(type='Pretrained', checkpoint='{checkpoint}', prefix='backbone.')
"""
COCO = """
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(192, 192), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(192, 192), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
data = dict(num_workers=0, persistent_workers=False)
root = dict(data_root='{data}/coco_tiny/')
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline, indices={images}, **root), **data)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, indices={val_images}, **root), **data)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{data}/coco_tiny/annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs={epochs}, val_interval={epochs})
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval={epochs}))
"""
RETINANET = (
    "_base_ = 'mmkerv::retinanet_r50_coc.py'\n"
    + START
    + """
model = dict(backbone=dict(depth=18, init_cfg=start, norm_eval=False), neck=dict(in_channels=[64, 128, 256, 512]))
"""
    + COCO
)
MASK_RCNN = (
    "_base_ = 'mmkerv::mask_rcnn_hr18_coc.py'\n"
    + START
    + """
# After so few steps of pretraining the statistics of batch norm are unusable.
model = dict(backbone=dict(init_cfg=start, norm_eval=False))
"""
    + COCO
)
VOC = """
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(256, 128), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(96, 96), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(256, 128), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
root = '{data}/voc_tiny/VOCdevkit/VOC2012'
data = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        _delete_=True,
        type='PascalVOCDataset',
        data_root=root,
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        ann_file='ImageSets/Segmentation/train.txt',
        pipeline=train_pipeline,
    ),
    **data,
)
val_dataloader = dict(dataset=dict(data_root=root, pipeline=test_pipeline, indices={val_images}), **data)
test_dataloader = val_dataloader
train_cfg = dict(max_iters={iterations}, val_interval={iterations})
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval={iterations}))
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end={iterations}, by_epoch=False)]
"""
FCN = (
    "_base_ = 'mmkerv::fcn_r50d8_coc_voc.py'\n"
    + START
    + """
model = dict(
    data_preprocessor=dict(size=(96, 96)),
    pretrained=None,
    backbone=dict(type='ResNet', depth=18, init_cfg=start),
    decode_head=dict(in_channels=512),
    auxiliary_head=dict(in_channels=256),
)
"""
    + VOC
)
FCN_HRNET = (
    "_base_ = 'mmkerv::fcn_hr18_coc_voc.py'\n"
    + START
    + """
model = dict(data_preprocessor=dict(size=(96, 96)), pretrained=None, backbone=dict(init_cfg=start))
"""
    + VOC
)
# By backbone of the classifier: the networks that start from it, with config and metrics.
TASKS = {
    'resnet18': {'retinanet': (RETINANET, ['coco/bbox_mAP']), 'fcn': (FCN, ['mIoU'])},
    'hrnet18': {
        'mask_rcnn': (MASK_RCNN, ['coco/bbox_mAP', 'coco/segm_mAP']),
        'fcn_hrnet': (FCN_HRNET, ['mIoU']),
    },
}


def pretraining(backbone: str, data: Path, folder: Path, images: int = 128, epochs: int = 1) -> Path:
    """Write the config of a classifier."""
    text = PRETRAIN.format(data=data, images=images, epochs=epochs)
    return _write(folder / f'{backbone}.py', text + (HRNET if backbone == 'hrnet18' else ''))


def fine_tuning(backbone: str, task: str, checkpoint: Path, data: Path, folder: Path, **sizes: int) -> Path:
    """Write the config of a detector or segmentor that starts from the classifier's backbone."""
    sizes = {'images': 8, 'val_images': 4, 'epochs': 1, 'iterations': 4, **sizes}
    return _write(folder / f'{task}.py', TASKS[backbone][task][0].format(checkpoint=checkpoint, data=data, **sizes))


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
