# 300 epochs of SGD with learning rate 0.1, /10 at 50 % and 75 % of them, for batches of 64 (Kervolution, section 5.1;
# weight decay 1e-4 and Nesterov momentum 0.9 from Huang et al., section 4.2, whose configuration it follows).
_base_ = './cifar_200e.py'

optim_wrapper = dict(optimizer=dict(weight_decay=1e-4, nesterov=True))
param_scheduler = dict(milestones=[150, 225])
train_cfg = dict(max_epochs=300)
auto_scale_lr = dict(base_batch_size=64)
