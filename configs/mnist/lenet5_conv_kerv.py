# Kervolutional Neural Networks, Figure 2 (e) and (f), "conv-kerv": polynomial kervolution in the second layer only.
# Published: faster to 98 % than "kerv-conv", but less accurate. Otherwise as configs/mnist/lenet5.py.
_base_ = './lenet5.py'

model = dict(
    backbone=dict(
        layers=(
            None,
            dict(type='mmkerv.KervConv', degree=3, balance=1.0),
        )
    )
)
