# CIFAR-100 with the data augmentation of Kervolution, section 5.1: reflection padding by 4 pixels, random crop, flip.
#
# The first of the two crops only pads: upstream's RandomCrop(padding=4, padding_mode='reflect') pads with zeros.
_base_ = './cifar100.py'

train_pipeline = [
    dict(type='RandomCrop', crop_size=40, pad_if_needed=True, padding_mode='reflect'),
    dict(type='RandomCrop', crop_size=32),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
