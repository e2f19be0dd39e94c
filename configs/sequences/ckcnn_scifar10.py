# CKConv (ICLR 2022), Table 1, CKCNN on sequential CIFAR-10: published test accuracy 62.25 %, chosen on the test set;
# here a validation split of the training data chooses. Settings are those of the authors' published command: omega_0
# 25.696, dropout 0.2, 0.0 on the input.
#
#   python tools/train.py configs/sequences/ckcnn_scifar10.py --cfg-options data_root=DIR
_base_ = [
    '../_base_/models/ckcnn.py',
    '../_base_/datasets/scifar10.py',
    '../_base_/schedules/ckcnn_200e.py',
    '../_base_/runtime.py',
]

model = dict(backbone=dict(in_channels=3, kernel_size=1024, omega_0=25.696, dropout=0.2, dropout_in=0.0))
