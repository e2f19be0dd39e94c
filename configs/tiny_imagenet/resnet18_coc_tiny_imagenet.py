# ResNet-18 with CoCConv on Tiny ImageNet: the counterpart of configs/tiny_imagenet/resnet18_tiny_imagenet.py, without a
# published figure; its checkpoint is a start for detectors and segmentors of ResNet-18 with CoCConv. Kaiming super
# kernels, the paper's start.
#
#   python tools/train.py configs/tiny_imagenet/resnet18_coc_tiny_imagenet.py --cfg-options data_root=DIR
#
# The CoC paper's ablation on this data set is benchmarks/coc_ablation.py.
_base_ = './resnet18_tiny_imagenet.py'

model = dict(backbone=dict(conv_cfg=dict(type='mmkerv.CoCConv', super_init='kaiming')))
