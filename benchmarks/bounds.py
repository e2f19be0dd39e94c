"""Upper bounds of the measurements, by (benchmark, case, form or '*' for all): ratios or seconds.

They hold on the CPU in float32 and eager mode unless the name of the form differs.
"""

_KERNELS = {
    'polynomial': 1.3,
    'polynomial compiled': 1.15,
    'gaussian': 1.6,
    'gaussian compiled': 1.3,
    'l2': 1.6,
    'l2 compiled': 1.3,
    'l1 compiled': 12.0,
}
_LAYERS = ('64x56', '128x28', '256x14', '512x7')

BOUNDS = {
    **{('ops', f'{layer} b8, fwd+bwd', kernel): bound for layer in _LAYERS for kernel, bound in _KERNELS.items()},
    ('networks', 'resnet50 b16 224, step', 'coc'): 1.02,
    ('networks', 'resnet50 b16 224, memory', 'coc'): 1.04,
    ('networks', 'resnet50 b16 224, memory', 'coc recompute'): 1.01,
    ('networks', 'resnet50 b2 224, step', 'coc'): 1.08,
    ('networks', 'resnet50 b16 224, step', 'kerv stem'): 1.03,
    ('networks', 'resnet50 b16 224, step', 'ck'): 1.1,
    ('networks', 'retinanet_r50 b2 640, step', 'coc'): 1.03,
    ('networks', 'shufflenet_v2 b16 224, step', 'coc'): 1.08,
    ('networks', 'mobilenet_v3_small b16 224, step', 'coc'): 1.08,
    ('networks', 'resnet50 b2 224, inference', 'coc folded'): 1.02,
    ('networks', 'resnet50 b2 224, inference', 'ck folded'): 1.02,
    ('networks', 'resnet50 b2 224, inference', 'coc frozen'): 1.01,
    ('networks', 'resnet50 b2 224, inference', 'ck frozen'): 1.01,
    ('networks', 'retinanet_r50 b1 640, inference', 'coc folded'): 1.02,
    ('networks', 'retinanet_r50 b1 640, inference', 'coc frozen'): 1.01,
    ('ops', '7x7 dense b8, forward', 'frozen CKConv'): 1.02,
    ('ops', '7x7 depthwise b8, forward', 'frozen CKConv'): 1.02,
    ('ops', '31x31 depthwise 128x56 b1, forward', 'channels_last inside'): 0.1,
    ('startup', 'import mmkerv.ops, without mmengine', 'seconds'): 0.05,
    ('startup', 'import mmkerv.ops, with mmengine', 'seconds'): 0.4,
    ('startup', 'tools/train.py -h', 'seconds'): 1.0,
    ('scaling', 'kept for backward, outputs', '*'): 2.0,
}

# On a GPU, in float32 and under bfloat16 autocast.
CUDA_BOUNDS = {
    **{
        ('ops', f'{layer} b64, fwd+bwd', kernel): bound
        for layer in _LAYERS
        for kernel, bound in {'polynomial compiled': 1.1, 'gaussian compiled': 1.1, 'l1': 10.0}.items()
    },
    ('networks', 'resnet50 b64 224, step', 'coc'): 1.03,
}
