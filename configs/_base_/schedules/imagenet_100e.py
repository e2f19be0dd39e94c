# 100 epochs of SGD with learning rate 0.1, momentum 0.9 and weight decay 1e-4 in batches of 256, x0.1 every 30 epochs
# (Kervolution, section 5.2): upstream's.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs256.py'

optim_wrapper = dict(constructor='mmkerv.OperatorRulesConstructor')
