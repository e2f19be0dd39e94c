# configs/retinanet_r50_coc.py without a pretrained backbone: nothing is frozen, and batch statistics are learned. No
# published figure; twelve epochs are too few for good results from scratch.
_base_ = './retinanet_r50_coc.py'

model = dict(backbone=dict(init_cfg=None, frozen_stages=-1, norm_eval=False))
