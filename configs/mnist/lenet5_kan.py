# Kolmogorov-Arnold convolution on MNIST, for comparison with the kervolutions of lenet5_kerv*.py: B-splines in both
# convolutions of LeNet-5, which start plain. They have 9 times the weights of plain ones: the network has 82,106
# parameters instead of 61,706. No published figure of this network; not run. Otherwise as configs/mnist/lenet5.py.
_base_ = './lenet5.py'

model = dict(
    backbone=dict(
        layers=(
            dict(type='mmkerv.KANConv'),
            dict(type='mmkerv.KANConv'),
        )
    )
)
