# Kervolutional Neural Networks, section 4.4: the CNN without activations, with average pooling. Published: 92.22.
# Otherwise as configs/mnist/lenet5.py.
_base_ = './lenet5.py'

model = dict(backbone=dict(act_cfg=None, pool='avg'))
