# Upstream's runtime for classification; of the checkpoints the last and the best are kept.
_base_ = 'mmpretrain::_base_/default_runtime.py'

default_hooks = dict(checkpoint=dict(max_keep_ckpts=1, save_best='accuracy/top1'))
