# Sequential CIFAR-10: each image as 1,024 pixels of three channels in reading order, without augmentation; the last
# 5,000 training images are for validation. Upstream's class fills an empty data/cifar10 by download.
_base_ = './cifar10.py'

pipeline = [dict(type='mmkerv.ToSequence'), dict(type='PackInputs')]
train_dataloader = dict(batch_size=64, dataset=dict(indices=45000, pipeline=pipeline))
val_dataloader = dict(dataset=dict(split='train', indices=-5000, test_mode=False, pipeline=pipeline))
test_dataloader = dict(dataset=dict(pipeline=pipeline))
