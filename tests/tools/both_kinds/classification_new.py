# classification_old.py as a pure-Python config: bases by read_base, classes as types, no default_scope.
from mmcv.transforms import LoadImageFromFile, RandomFlip, Resize
from mmengine.config import read_base
from mmpretrain.datasets import CustomDataset, PackInputs
from mmpretrain.engine import VisualizationHook
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import (
    ClsDataPreprocessor,
    CrossEntropyLoss,
    GlobalAveragePooling,
    ImageClassifier,
    LinearClsHead,
)
from mmpretrain.visualization import UniversalVisualizer

from mmkerv.models import ResNet
from mmkerv.ops import CKConv

with read_base():
    from .runtime import *

model = dict(
    type=ImageClassifier,
    backbone=dict(
        type=ResNet,
        depth=18,
        stem_channels=8,
        base_channels=8,
        conv_cfg=dict(type=CKConv),
        where=dict(stages=(1, 2), stem=False),
    ),
    neck=dict(type=GlobalAveragePooling),
    head=dict(
        type=LinearClsHead,
        num_classes=3,
        in_channels=64,
        loss=dict(type=CrossEntropyLoss, loss_weight=1.0),
        topk=(1,),
    ),
)
data_preprocessor = dict(
    type=ClsDataPreprocessor,
    num_classes=3,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
data_root = 'data/shapes_imagenet'
load, resize, pack = dict(type=LoadImageFromFile), dict(type=Resize, scale=(64, 64)), dict(type=PackInputs)
train_dataloader = dict(
    dataset=dict(
        type=CustomDataset,
        data_root=data_root,
        data_prefix='train',
        pipeline=[load, resize, dict(type=RandomFlip, prob=0.5), pack],
    ),
    **loader,
)
val_dataloader = dict(
    dataset=dict(type=CustomDataset, data_root=data_root, data_prefix='val', pipeline=[load, resize, pack]), **loader
)
test_dataloader = val_dataloader
val_evaluator = dict(type=Accuracy, topk=(1,))
test_evaluator = val_evaluator
visualizer = dict(type=UniversalVisualizer, vis_backends=[])
default_hooks.update(visualization=dict(type=VisualizationHook, enable=False))
