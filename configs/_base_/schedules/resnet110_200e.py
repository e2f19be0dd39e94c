# The 200 epochs of cifar_200e.py, the first 400 iterations with learning rate 0.01, as He et al. do for ResNet-110.
_base_ = './cifar_200e.py'

param_scheduler = [
    dict(type='ConstantLR', factor=0.1, by_epoch=False, end=400),
    dict(type='MultiStepLR', milestones=[75, 125, 150], gamma=0.1),
]
