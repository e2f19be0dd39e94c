# Kervolutional Neural Networks, section 4.1, Figure 2 (a) and (b), and "kerv-kerv" of Figure 2 (e) and (f): polynomial
# kervolution of degree 3, balance 1. Published: 98 % more than twice as fast as the CNN. Otherwise as
# configs/mnist/lenet5.py.
_base_ = './lenet5.py'

model = dict(
    backbone=dict(
        layers=(
            dict(type='mmkerv.KervConv', degree=3, balance=1.0),
            dict(type='mmkerv.KervConv', degree=3, balance=1.0),
        )
    )
)
