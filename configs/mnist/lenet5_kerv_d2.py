# Kervolutional Neural Networks, Figure 2 (c) and (d): polynomial of degree 2, balance 1. Published: as fast as degree
# 3. Otherwise as configs/mnist/lenet5.py.
_base_ = './lenet5.py'

model = dict(
    backbone=dict(
        layers=(
            dict(type='mmkerv.KervConv', degree=2, balance=1.0),
            dict(type='mmkerv.KervConv', degree=2, balance=1.0),
        )
    )
)
