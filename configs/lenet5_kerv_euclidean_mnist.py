# Kervolutional Neural Networks, section 4.1 and Table 1, the negated squared L2 norm, which the paper's authors
# compute under this name. Published for the L2 norm: see lenet5_kerv_l2_mnist.py.
# All else as configs/lenet5_mnist.py.
_base_ = './lenet5_mnist.py'

model = dict(
    backbone=dict(
        layers=(
            dict(type='mmkerv.KervConv', kernel='euclidean'),
            dict(type='mmkerv.KervConv', kernel='euclidean'),
        )
    )
)
