# Half of shapes.py: 8 epochs, 400 iterations on 400 scenes.
_base_ = './shapes.py'

train_cfg = dict(max_epochs=8, val_interval=8)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0, begin=1, end=8, by_epoch=True, convert_to_iter_based=True),
]
