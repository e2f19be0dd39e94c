# segmentation_old.py as a pure-Python config: bases by read_base, classes as types, no default_scope.
from mmcv.transforms import LoadImageFromFile, RandomFlip, Resize, TestTimeAug
from mmengine.config import read_base
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.evaluation import IoUMetric
from mmseg.models import CrossEntropyLoss, EncoderDecoder, FCNHead, SegDataPreProcessor, SegTTAModel
from mmseg.visualization import SegLocalVisualizer
from torch.nn import SyncBatchNorm

from mmkerv.models import ResNetV1c
from mmkerv.ops import CoCConv, KervConv

with read_base():
    from .runtime import *

norm_cfg = dict(type=SyncBatchNorm, requires_grad=True)
size = (64, 64)
model = dict(
    type=EncoderDecoder,
    data_preprocessor=dict(
        type=SegDataPreProcessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=size,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type=ResNetV1c,
        depth=18,
        stem_channels=8,
        base_channels=8,
        norm_cfg=norm_cfg,
        conv_cfg=dict(type=CoCConv, super_init='kaiming'),
        where=dict(stages=(1, 2), stem=False),
    ),
    decode_head=dict(
        type=FCNHead,
        in_channels=64,
        in_index=3,
        channels=8,
        num_convs=1,
        num_classes=4,
        norm_cfg=norm_cfg,
        conv_cfg=dict(type=KervConv, kernel='linear'),
        align_corners=False,
        loss_decode=dict(type=CrossEntropyLoss, use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
data_root = 'data/shapes/VOCdevkit/VOC2012'
metainfo = dict(
    classes=('background', 'circle', 'rectangle', 'triangle'),
    palette=[[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]],
)
load, resize, annotate, pack = (
    dict(type=LoadImageFromFile),
    dict(type=Resize, scale=size),
    dict(type=LoadAnnotations),
    dict(type=PackSegInputs),
)
data = dict(
    type=BaseSegDataset,
    img_suffix='.jpg',
    seg_map_suffix='.png',
    data_root=data_root,
    metainfo=metainfo,
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
)
train_dataloader = dict(
    dataset=dict(
        ann_file='ImageSets/Segmentation/train.txt',
        pipeline=[load, annotate, resize, dict(type=RandomFlip, prob=0.5), pack],
        **data,
    ),
    **loader,
)
loader.update(batch_size=1)
val_dataloader = dict(
    dataset=dict(ann_file='ImageSets/Segmentation/val.txt', pipeline=[load, resize, annotate, pack], **data), **loader
)
test_dataloader = val_dataloader
val_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])
test_evaluator = val_evaluator
tta_model = dict(type=SegTTAModel)
flips = [dict(type=RandomFlip, prob=0.0), dict(type=RandomFlip, prob=1.0)]
tta_pipeline = [load, dict(type=TestTimeAug, transforms=[[resize], flips, [annotate], [pack]])]
visualizer = dict(type=SegLocalVisualizer, vis_backends=[], name='visualizer')
default_hooks.update(visualization=dict(type=SegVisualizationHook))
