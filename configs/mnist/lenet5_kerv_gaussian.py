# Kervolutional Neural Networks, section 4.1, Figure 2 (a) and (b): Gaussian kervolution, gamma 1. Published: 98 % more
# than twice as fast as the CNN. Otherwise as configs/mnist/lenet5.py.
_base_ = './lenet5.py'

model = dict(
    backbone=dict(
        layers=(
            dict(type='mmkerv.KervConv', kernel='gaussian', gamma=1.0),
            dict(type='mmkerv.KervConv', kernel='gaussian', gamma=1.0),
        )
    )
)
# A Gaussian that is 0 for every patch learns nothing, and the loss does not show it.
custom_hooks = [dict(type='mmkerv.KervolutionGuardHook', action='warn', interval=100)]
