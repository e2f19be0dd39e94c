# Permuted MNIST: the 784 pixels of sequential MNIST in one random order, the same for all images. Every seed gives
# another task; the authors' order is not known.
_base_ = './smnist.py'

pipeline = [dict(type='mmkerv.ToSequence'), dict(type='mmkerv.Permute', seed=0), dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=pipeline))
val_dataloader = dict(dataset=dict(pipeline=pipeline))
test_dataloader = dict(dataset=dict(pipeline=pipeline))
