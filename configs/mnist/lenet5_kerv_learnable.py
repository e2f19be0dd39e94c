# Kervolutional Neural Networks, Figure 2 (c) and (d): polynomial of degree 3, learned balance. Published: 99.20, the
# best of its group. Otherwise as configs/mnist/lenet5.py.
_base_ = './lenet5.py'

model = dict(
    backbone=dict(
        layers=(
            dict(type='mmkerv.KervConv', degree=3, balance=1.0, learnable=True),
            dict(type='mmkerv.KervConv', degree=3, balance=1.0, learnable=True),
        )
    )
)
