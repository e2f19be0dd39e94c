# Convolution of Convolution, Table 3, row 10: FCN-HRNet18, orthogonalised, on VOC 2012 aug. Published mIoU 74.17 %
# (mAcc 84.84, aAcc 93.88). Schedule, data and start as configs/fcn_hr18_voc.py. The backbone's kernels are
# orthogonalised, with the weight that the paper of that loss gives.
_base_ = './fcn_hr18_voc.py'

custom_hooks = [
    dict(type='mmkerv.OrthogonalityHook', weight=0.01, where=dict(names=('^backbone',), kernel_sizes='all', stem=False))
]
