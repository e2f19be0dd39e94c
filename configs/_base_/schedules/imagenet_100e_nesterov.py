# 100 epochs of SGD with learning rate 0.1, Nesterov momentum 0.9 and weight decay 1e-4, x0.1 at epochs 30, 60 and 90,
# in batches of 64 on each of four GPUs (Convolution of Convolution, section 4.2, standard networks).
_base_ = './imagenet_100e.py'

optim_wrapper = dict(optimizer=dict(nesterov=True))
