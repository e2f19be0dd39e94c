# Kervolutional Neural Networks, section 4.1 and Table 1, the negated squared L2 norm, which the paper's authors compute
# under this name. Published for the L2 norm: see lenet5_kerv_l2.py. Otherwise as configs/mnist/lenet5.py.
_base_ = './lenet5.py'

model = dict(
    backbone=dict(
        layers=(
            dict(type='mmkerv.KervConv', kernel='euclidean'),
            dict(type='mmkerv.KervConv', kernel='euclidean'),
        )
    )
)
