# Convolution of Convolution, Table 3, row 4: FCN-R50-d8, orthogonalised, on VOC 2012 aug. Published mIoU 69.01 % (mAcc
# 78.36, aAcc 92.62). Schedule, data and start as configs/fcn_r50d8_voc.py. The backbone's kernels are orthogonalised,
# with the weight that the paper of that loss gives.
_base_ = './fcn_r50d8_voc.py'

custom_hooks = [
    dict(type='mmkerv.OrthogonalityHook', weight=0.01, where=dict(names=('^backbone',), kernel_sizes='all', stem=False))
]
