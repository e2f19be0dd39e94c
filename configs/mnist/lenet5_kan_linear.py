# Kolmogorov-Arnold convolution on MNIST in the network without activations, for comparison with lenet5_kerv_linear.py
# (Kervolutional Neural Networks, section 4.4), where the convolutions alone are not linear. No published figure of this
# network; not run. Otherwise as configs/mnist/lenet5_linear.py.
_base_ = './lenet5_linear.py'

model = dict(
    backbone=dict(
        layers=(
            dict(type='mmkerv.KANConv'),
            dict(type='mmkerv.KANConv'),
        )
    )
)
