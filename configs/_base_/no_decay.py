# Parameters of operators without weight decay, which would pull learned hyperparameters towards 0, super layers
# towards no association, and the frequencies of kernel nets, not their kernels, towards 0. The operators' classes list
# the same names as `no_decay`. Networks without operators have no parameter with such a name.
# Use: optim_wrapper = dict(paramwise_cfg=_base_.no_decay).
no_decay = dict(
    custom_keys=dict(
        balance=dict(decay_mult=0.0),
        gamma=dict(decay_mult=0.0),
        alpha=dict(decay_mult=0.0),
        super_layers=dict(decay_mult=0.0),
        kernel_net=dict(decay_mult=0.0),
    )
)
