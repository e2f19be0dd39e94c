# Kervolutional Neural Networks (CVPR 2019), section 4: the baseline, LeNet-5 on MNIST ("conv-conv"). Published: test
# accuracy 99.17, 71.92 under FGSM (Table 1).
#
# Section 4: SGD 0.003 / 0.9, batch 50, 20 epochs, x0.1 at epochs 10 and 15. What the paper leaves open is kept as plain
# as possible: pixels in [0, 1], torch's initialisation, no norm, no weight decay; benchmarks/mnist_study.py searches
# these.
#
#   python tools/train.py configs/mnist/lenet5.py --cfg-options data_root=DIR
#
# DIR holds train-images-idx3-ubyte and its three companions; without data_root they are expected in data/mnist.
_base_ = 'mmpretrain::_base_/default_runtime.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkerv.LeNet5Kerv'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=84,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        # The paper's figures are of torch's initialisation.
        init_cfg=None,
    ),
    data_preprocessor=dict(num_classes=10, mean=[0.0], std=[255.0], to_rgb=False),
)

data_root = 'data/mnist'
pipeline = [dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=50,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='MNIST', data_root=data_root, split='train', pipeline=pipeline),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    # Upstream's class reads the test files by test_mode alone.
    dataset=dict(type='MNIST', data_root=data_root, split='test', test_mode=True, pipeline=pipeline),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.003, momentum=0.9, weight_decay=0.0),
    constructor='mmkerv.OperatorRulesConstructor',
)
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[10, 15], gamma=0.1)
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=50)
