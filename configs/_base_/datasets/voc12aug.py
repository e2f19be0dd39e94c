# VOC 2012 with the additional annotations (train_aug), crops of 512 x 512: mmsegmentation's pascal_voc12_aug.py. The
# additional part is SegmentationClassAug and ImageSets/Segmentation/aug.txt, written by mmsegmentation's
# tools/dataset_converters/voc_aug.py. The data: --cfg-options data_root=DIR/VOCdevkit/VOC2012
data_root = 'data/VOCdevkit/VOC2012'
crop_size = (512, 512)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    # Resize would change the labels, which are compared at the size they were drawn.
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)],
            [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
voc = dict(type='PascalVOCDataset', data_root=data_root)
drawn = dict(img_path='JPEGImages', seg_map_path='SegmentationClass')
added = dict(img_path='JPEGImages', seg_map_path='SegmentationClassAug')
lists = 'ImageSets/Segmentation'
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='ConcatDataset',
        datasets=[
            dict(ann_file=f'{lists}/train.txt', data_prefix=drawn, pipeline=train_pipeline, **voc),
            dict(ann_file=f'{lists}/aug.txt', data_prefix=added, pipeline=train_pipeline, **voc),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(ann_file=f'{lists}/val.txt', data_prefix=drawn, pipeline=test_pipeline, **voc),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_dataloader = val_dataloader
test_evaluator = val_evaluator
