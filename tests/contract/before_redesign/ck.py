# Model of ck.pth.gz.
_base_ = './coc.py'

model = dict(backbone=dict(conv_cfg=dict(_delete_=True, type='mmkerv.CKConv', kernel_extent=5, hidden=4)))
