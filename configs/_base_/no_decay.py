# Parameters of operators without weight decay, which would pull learned hyperparameters towards 0, super layers
# towards no association, and the frequencies of kernel nets, not their kernels, towards 0. The operators' classes list
# the same names as `no_decay`.
#
# Not needed with tools/train.py, nor with constructor='mmkerv.OperatorRulesConstructor', which exempt the operators'
# parameters alone. mmengine takes the longest key that fits, so these keys would cancel a shorter one such as
# backbone=dict(lr_mult=0.1), and `gamma` also fits the layer scale of ConvNeXt. Configs that use this file keep
# working: optim_wrapper = dict(paramwise_cfg=_base_.no_decay).
no_decay = dict(
    custom_keys=dict(
        balance=dict(decay_mult=0.0),
        gamma=dict(decay_mult=0.0),
        alpha=dict(decay_mult=0.0),
        super_layers=dict(decay_mult=0.0),
        kernel_net=dict(decay_mult=0.0),
        mask_params=dict(decay_mult=0.0),
        positions=dict(decay_mult=0.0),
        width=dict(decay_mult=0.0),
        radius=dict(decay_mult=0.0),
        branch_scale=dict(decay_mult=0.0),
        density_rows=dict(decay_mult=0.0),
        density_columns=dict(decay_mult=0.0),
    )
)
