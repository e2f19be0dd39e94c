"""Configs of small networks of the three libraries, with operators in every part that takes them."""

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmkerv.ops import CoCConv2d

COC = dict(type='CoCConv', super_init='kaiming')
SIZE = (64, 64)


def backbone(kind: str = 'ResNet', **changes) -> dict:
    return {**dict(type=kind, depth=18, base_channels=8, norm_eval=False), **changes}


def neck(**changes) -> dict:
    return {**dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=5), **changes}


ANCHORS = dict(type='AnchorGenerator', ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128], octave_base_scale=4,
               scales_per_octave=3)  # fmt: skip
TRAIN = dict(allowed_border=-1, pos_weight=-1, debug=False)
ASSIGNER = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0)
NMS = dict(type='nms', iou_threshold=0.7)


def retinanet(**changes) -> Config:
    model = dict(
        type='RetinaNet',
        data_preprocessor=dict(type='DetDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3, bgr_to_rgb=True),
        backbone=backbone(conv_cfg=COC),
        neck=neck(conv_cfg=COC, start_level=1, add_extra_convs='on_input'),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=3,
            in_channels=16,
            feat_channels=16,
            stacked_convs=2,
            conv_cfg=COC,
            norm_cfg=dict(type='GN', num_groups=4),
            anchor_generator=ANCHORS,
        ),
        train_cfg=dict(assigner=ASSIGNER, **TRAIN),
        test_cfg=dict(nms_pre=100, score_thr=0.05, nms=NMS, max_per_img=10),
    )
    return Config(dict(default_scope='mmdet', model={**model, **changes}))


def mask_rcnn() -> Config:
    rpn = dict(type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64])

    def extractor(size: int) -> dict:
        layer = dict(type='RoIAlign', output_size=size, sampling_ratio=0)
        return dict(type='SingleRoIExtractor', roi_layer=layer, out_channels=16, featmap_strides=[4, 8, 16, 32])

    model = dict(
        type='MaskRCNN',
        data_preprocessor=dict(type='DetDataPreprocessor', pad_mask=True),
        backbone=backbone('mmkerv.ResNet', conv_cfg=COC, where=dict(stages=(2, 3, 4), stem=False)),
        neck=neck(conv_cfg=COC),
        rpn_head=dict(type='RPNHead', in_channels=16, feat_channels=16, anchor_generator=rpn),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=extractor(7),
            bbox_head=dict(
                type='Shared2FCBBoxHead', in_channels=16, fc_out_channels=32, roi_feat_size=7, num_classes=3
            ),
            mask_roi_extractor=extractor(14),
            mask_head=dict(
                type='FCNMaskHead', num_convs=2, in_channels=16, conv_out_channels=16, num_classes=3, conv_cfg=COC
            ),
        ),
        train_cfg=None,
        test_cfg=dict(
            rpn=dict(nms_pre=50, max_per_img=20, nms=NMS, min_bbox_size=0),
            rcnn=dict(score_thr=0.05, nms=NMS, max_per_img=10, mask_thr_binary=0.5),
        ),
    )
    return Config(dict(default_scope='mmdet', model=model))


def classifier(**changes) -> Config:
    model = dict(
        type='ImageClassifier',
        data_preprocessor=dict(type='ClsDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True),
        backbone=backbone('mmkerv.ResNet', conv_cfg=COC, where=dict(stages=(1, 2), stem=False), **changes),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', in_channels=64, num_classes=4),
    )
    return Config(dict(default_scope='mmpretrain', model=model))


def segmentor() -> Config:
    def head(index: int, channels: int) -> dict:
        return dict(
            type='FCNHead', in_channels=channels, in_index=index, channels=16, num_convs=1, num_classes=4, conv_cfg=COC
        )

    model = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', mean=[120.0] * 3, std=[60.0] * 3, size=SIZE),
        backbone=backbone('ResNetV1c', conv_cfg=COC, norm_cfg=dict(type='SyncBN')),
        decode_head=head(3, 64),
        auxiliary_head=[head(2, 32)],
        test_cfg=dict(mode='whole'),
    )
    return Config(dict(default_scope='mmseg', model=model))


NETWORKS = {'retinanet': retinanet, 'mask_rcnn': mask_rcnn, 'classifier': classifier, 'segmentor': segmentor}


def operators(model: nn.Module) -> list[CoCConv2d]:
    return [module for module in model.modules() if isinstance(module, CoCConv2d)]


@torch.no_grad()
def associated(cfg: Config, at_least: float = 0.3) -> nn.Module:
    """Build a network and move its super layers until |K - W| >= ``at_least`` |W| in every operator."""
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    for operator in operators(model):
        layer, scale = operator.super_layers[0], 0.1
        while (operator.kernel() - operator.weight).norm() < at_least * operator.weight.norm():
            layer.weight.normal_(std=scale)
            scale *= 1.5
    # As after training: a fresh residual branch ends in a norm with weight zero, which hides the branch.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            module.weight.uniform_(0.5, 1.5)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()
