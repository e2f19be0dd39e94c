# ResNet-18 on Tiny ImageNet, a short run without a published figure: 20 epochs, batches of 64, the plain network beside
# configs/tiny_imagenet/resnet18_ck_tiny_imagenet.py.
#
#   python tools/train.py configs/tiny_imagenet/resnet18_tiny_imagenet.py --cfg-options data_root=DIR
#
# With other than 200 classes: --cfg-options model.head.num_classes=20 data_preprocessor.num_classes=20
_base_ = [
    'mmpretrain::_base_/models/resnet18.py',
    '../_base_/datasets/tiny_imagenet.py',
    '../_base_/schedules/cifar_200e.py',
    '../_base_/runtime.py',
]

model = dict(head=dict(num_classes=200, topk=(1, 5)))
optim_wrapper = dict(optimizer=dict(lr=0.05))
param_scheduler = dict(milestones=[12, 17])
train_cfg = dict(max_epochs=20)
auto_scale_lr = dict(base_batch_size=64)
