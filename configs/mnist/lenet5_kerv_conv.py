# Kervolutional Neural Networks, Figure 2 (e) and (f), "kerv-conv": polynomial kervolution in the first layer only.
# Published: better than "conv-kerv", but slower to 98 %. Otherwise as configs/mnist/lenet5.py.
_base_ = './lenet5.py'

model = dict(
    backbone=dict(
        layers=(
            dict(type='mmkerv.KervConv', degree=3, balance=1.0),
            None,
        )
    )
)
