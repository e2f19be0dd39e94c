# Kervolutional Neural Networks, Figure 1 and Figure 2 (c) and (d): polynomial of degree 2, balance 0.5. Published: as
# fast as degree 3, balance 1. Otherwise as configs/mnist/lenet5.py.
_base_ = './lenet5.py'

model = dict(
    backbone=dict(
        layers=(
            dict(type='mmkerv.KervConv', degree=2, balance=0.5),
            dict(type='mmkerv.KervConv', degree=2, balance=0.5),
        )
    )
)
