# VOC 2012 as it is distributed: 1464 training images, without the additional annotations (SegmentationClassAug and
# aug.txt) that voc12aug.py needs. The data: --cfg-options data_root=DIR/VOCdevkit/VOC2012
_base_ = './voc12aug.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='PascalVOCDataset',
        data_root={{_base_.data_root}},
        ann_file='ImageSets/Segmentation/train.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        pipeline={{_base_.train_pipeline}},
    )
)
