# Sequential MNIST: each image as 784 pixels in reading order; the last 5,000 training images are for validation.
#
# DIR of --cfg-options data_root=DIR holds train-images-idx3-ubyte and its three companions, unpacked.
data_root = 'data/mnist'
data_preprocessor = dict(num_classes=10, mean=[255 * 0.1307], std=[255 * 0.3081], to_rgb=False)
pipeline = [dict(type='mmkerv.ToSequence'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='MNIST', data_root=data_root, split='train', indices=55000, pipeline=pipeline),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='MNIST', data_root=data_root, split='train', indices=-5000, pipeline=pipeline),
)
test_dataloader = dict(
    batch_size=100,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    # Upstream's class reads the test files by test_mode alone.
    dataset=dict(type='MNIST', data_root=data_root, split='test', test_mode=True, pipeline=pipeline),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
