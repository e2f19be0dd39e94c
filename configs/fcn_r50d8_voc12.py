# FCN-R50-d8 on VOC 2012 without the additional annotations, for those who have no SegmentationClassAug: no row of the
# paper, whose Table 3 is trained on VOC 2012 aug (configs/fcn_r50d8_voc.py). The schedule is the same.
#
# The other fcn_*_voc.py configs train without them by
#   --cfg-options train_dataloader.dataset.datasets.1.ann_file=ImageSets/Segmentation/train.txt \
#     train_dataloader.dataset.datasets.1.data_prefix.seg_map_path=SegmentationClass
#
#   tools/dist_train.sh configs/fcn_r50d8_voc12.py 4
_base_ = [
    './_base_/models/fcn_r50-d8.py',
    './_base_/datasets/voc12.py',
    './_base_/schedules/voc_20k.py',
    './_base_/seg_runtime.py',
]
