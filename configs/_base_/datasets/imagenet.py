# ILSVRC 2012 in batches of 64 on each of four GPUs (Kervolution, section 5.2: four GPUs, batch 256), augmented as
# upstream has it; He et al. resize to a random short side and change colours instead. Tests take one centre crop of
# 224 x 224; with --tta the mean of ten: the corners and the centre, and their mirror images.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64.py'

data_root = 'data/imagenet'
tta_model = dict(type='AverageClsScoreTTA')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='mmkerv.CornerCrop', crop_size=224, position='top-left'),
                dict(type='mmkerv.CornerCrop', crop_size=224, position='top-right'),
                dict(type='mmkerv.CornerCrop', crop_size=224, position='bottom-left'),
                dict(type='mmkerv.CornerCrop', crop_size=224, position='bottom-right'),
                dict(type='mmkerv.CornerCrop', crop_size=224, position='center'),
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='PackInputs')],
        ],
    ),
]
