# resnet18_shapes.py with orthogonalised momentum (Muon) for the hidden weights, and AdamW as there for all others.
#
#   python tools/train.py configs/demo/resnet18_muon_shapes.py
_base_ = './resnet18_shapes.py'

optim_wrapper = dict(
    constructor='mmkerv.ConvMuonConstructor',
    optimizer=dict(_delete_=True, type='mmkerv.ConvMuon', lr=0.02),
    paramwise_cfg=dict(rest=dict(type='AdamW', lr=1e-3, weight_decay=0.05)),
)
