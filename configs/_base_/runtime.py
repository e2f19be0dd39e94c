# Upstream's runtime for classification; keeps the last and the best checkpoint.
_base_ = 'mmpretrain::_base_/default_runtime.py'

default_hooks = dict(checkpoint=dict(max_keep_ckpts=1, save_best='accuracy/top1'))
