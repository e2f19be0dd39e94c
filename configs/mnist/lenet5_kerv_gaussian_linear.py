# Kervolutional Neural Networks, section 4.4: no activations, average pooling, "gaussian-polynomial". Published: 99.11.
# Otherwise as configs/mnist/lenet5.py.
_base_ = './lenet5.py'

model = dict(
    backbone=dict(
        layers=(
            dict(type='mmkerv.KervConv', kernel='gaussian', gamma=1.0),
            dict(type='mmkerv.KervConv', degree=3, balance=1.0),
        ),
        act_cfg=None,
        pool='avg',
    )
)
# A Gaussian that is 0 for every patch learns nothing, and the loss does not show it.
custom_hooks = [dict(type='mmkerv.KervolutionGuardHook', action='warn', interval=100)]
