# ResNet-32 on images of CIFAR-10 in class folders, a short run without a published figure: 15 epochs, batches of 64.
#
#   python tools/train.py configs/cifar/resnet32_cifar10_folder.py --cfg-options data_root=DIR
_base_ = [
    '../_base_/models/resnet_cifar.py',
    '../_base_/datasets/cifar10_folder.py',
    '../_base_/schedules/cifar_200e.py',
    '../_base_/runtime.py',
]

model = dict(backbone=dict(depth=32))
train_dataloader = dict(batch_size=64)
param_scheduler = dict(milestones=[8, 12])
train_cfg = dict(max_epochs=15)
auto_scale_lr = dict(base_batch_size=64)
