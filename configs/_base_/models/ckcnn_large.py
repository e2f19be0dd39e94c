# CKCNN of two blocks, 100 channels (1.0 million parameters), for ten classes (the large form of CKConv, ICLR 2022).
_base_ = './ckcnn.py'

model = dict(backbone=dict(channels=100), head=dict(in_channels=100))
