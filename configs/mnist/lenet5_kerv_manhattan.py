# Kervolutional Neural Networks, section 4.1 and Table 1, the negated L1 norm, which the paper's authors compute under
# this name. Published for the L1 norm: see lenet5_kerv_l1.py. Otherwise as configs/mnist/lenet5.py.
_base_ = './lenet5.py'

model = dict(
    backbone=dict(
        layers=(
            dict(type='mmkerv.KervConv', kernel='manhattan'),
            dict(type='mmkerv.KervConv', kernel='manhattan'),
        )
    )
)
