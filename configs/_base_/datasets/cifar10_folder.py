# CIFAR-10's images, or any others of 32 x 32 pixels, in folders train/CLASS and val/CLASS, augmented as CIFAR-10+ is.
# The data: --cfg-options data_root=DIR.
_base_ = './cifar10plus.py'

data_root = 'data/cifar10_folder'
data_preprocessor = dict(to_rgb=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=40, pad_if_needed=True, padding_mode='reflect'),
    dict(type='RandomCrop', crop_size=32),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
folder = dict(_delete_=True, type='CustomDataset', data_root=data_root)
train_dataloader = dict(dataset=dict(data_prefix='train', pipeline=train_pipeline, **folder))
val_dataloader = dict(dataset=dict(data_prefix='val', pipeline=test_pipeline, **folder))
test_dataloader = val_dataloader
