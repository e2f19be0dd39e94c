# Kervolutional Neural Networks, section 4.4: no activations, average pooling, "polynomial-polynomial". Published:
# 99.11. Otherwise as configs/mnist/lenet5.py.
_base_ = './lenet5.py'

model = dict(
    backbone=dict(
        layers=(
            dict(type='mmkerv.KervConv', degree=3, balance=1.0),
            dict(type='mmkerv.KervConv', degree=3, balance=1.0),
        ),
        act_cfg=None,
        pool='avg',
    )
)
