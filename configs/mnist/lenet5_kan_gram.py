# Kolmogorov-Arnold convolution on MNIST, for comparison with the kervolutions of lenet5_kerv*.py: Gram polynomials with
# the author's base activation, the best basis there. 5 times the weights of plain convolutions: the network has 71,906
# parameters instead of 61,706. No published figure of this network; not run. Otherwise as configs/mnist/lenet5.py.
_base_ = './lenet5.py'

model = dict(
    backbone=dict(
        layers=(
            dict(type='mmkerv.KANConv', basis='gram', base_activation='silu'),
            dict(type='mmkerv.KANConv', basis='gram', base_activation='silu'),
        )
    )
)
