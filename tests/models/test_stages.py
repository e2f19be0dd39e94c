"""Stages of the backbones of mmdetection, mmsegmentation, mmpretrain, torchvision and timm.

A text lists, for the stem and then each stage, the modules that hold its convolutions, separated by `|`; behind `;` is
what lies outside the stages. `layer{n} 1-4` is stages 1 to 4, with n the number of the stage, i = n - 1 and h = n - 2.
"""

import re
from importlib import import_module

import pytest
import torch
import torchvision
from torch import nn

import mmkerv
from mmkerv.models.stages import find_stages
from mmkerv.ops import KervConv2d

NETWORKS = [
    ('mmdet', 'CSPDarknet', {}, 'stem | stage{n} 1-4'),
    ('mmdet', 'CSPNeXt', {}, 'stem | stage{n} 1-4'),
    ('mmdet', 'Darknet', {}, 'conv1 | conv_res_block{n} 1-5'),
    (
        'mmdet',
        'DetectoRS_ResNet',
        {'depth': 50, 'output_img': False, 'sac': None, 'stage_with_sac': (False, False, False, False)},
        'conv1 | layer{n} 1-4',
    ),
    ('mmdet', 'EfficientNet', {'arch': 'b0'}, 'layers.0 | layers.{n} 1-5 ; layers.6'),
    (
        'mmdet',
        'HourglassNet',
        {
            'downsample_times': 2,
            'num_stacks': 1,
            'stage_channels': [16, 16, 16],
            'stage_blocks': [1, 1, 1],
            'feat_channel': 16,
        },
        None,
    ),
    ('mmdet', 'MobileNetV2', {}, 'conv1 | layer{n} 1-7 ; conv2'),
    ('mmdet', 'PyramidVisionTransformer', {}, 'layers.0.0 | layers.0.1 | layers.{i} 2-4'),
    (
        'mmdet',
        'PyramidVisionTransformerV2',
        {'embed_dims': 32, 'num_layers': [1, 1, 1, 1]},
        'layers.0.0 | layers.0.1 | layers.{i} 2-4',
    ),
    ('mmdet', 'RegNet', {'arch': 'regnetx_400mf'}, 'conv1 | layer{n} 1-4'),
    ('mmdet', 'Res2Net', {'depth': 50, 'scales': 4}, 'stem | layer{n} 1-4'),
    ('mmdet', 'ResNeSt', {'depth': 50}, 'stem | layer{n} 1-4'),
    ('mmdet', 'ResNet', {'depth': 50}, 'conv1 | layer{n} 1-4'),
    ('mmdet', 'ResNetV1d', {'depth': 50}, 'stem | layer{n} 1-4'),
    ('mmdet', 'ResNeXt', {'depth': 50, 'groups': 32}, 'conv1 | layer{n} 1-4'),
    ('mmdet', 'SSDVGG', {'depth': 16}, None),
    ('mmdet', 'SwinTransformer', {}, 'patch_embed'),
    (
        'mmdet',
        'TridentResNet',
        {
            'depth': 50,
            'num_stages': 3,
            'strides': (1, 2, 2),
            'dilations': (1, 1, 1),
            'out_indices': (2,),
            'num_branch': 3,
            'test_branch_idx': 1,
            'trident_dilations': (1, 2, 3),
        },
        'conv1 | layer{n} 1-3',
    ),
    ('mmseg', 'BEiT', {}, 'patch_embed'),
    (
        'mmseg',
        'BiSeNetV2',
        {},
        ' | detail.detail_branch.{i} semantic.stage{n} 1-3 | semantic.stage4 ; semantic.stage4_CEBlock bga',
    ),
    ('mmseg', 'CGNet', {}, 'stem | level{n} 1-2'),
    (
        'mmseg',
        'DDRNet',
        {},
        'stem | '
        'context_branch_layers.{i} spatial_branch_layers.{i} 1-3 ; compression_1 down_1 compression_2 down_2 spp',
    ),
    ('mmseg', 'ERFNet', {}, None),
    ('mmseg', 'FastSCNN', {}, None),
    (
        'mmseg',
        'ICNet',
        {
            'backbone_cfg': {
                'type': 'ResNetV1c',
                'depth': 18,
                'num_stages': 4,
                'out_indices': (0, 1, 2, 3),
                'dilations': (1, 1, 2, 4),
                'strides': (1, 2, 1, 1),
            }
        },
        'backbone.stem | backbone.layer{n} 1-4 ; psp_modules psp_bottleneck conv_sub1 conv_sub2 conv_sub4',
    ),
    ('mmseg', 'MAE', {}, 'patch_embed'),
    ('mmseg', 'MixVisionTransformer', {}, 'layers.0.0 | layers.0.1 | layers.{i} 2-4'),
    ('mmseg', 'MobileNetV2', {}, 'conv1 | layer{n} 1-7'),
    ('mmseg', 'MobileNetV3', {}, 'layer0 | layer{n} 1-11 ; layer12'),
    (
        'mmseg',
        'MSCAN',
        {'embed_dims': [16, 32, 64, 128], 'depths': [1, 1, 1, 1], 'norm_cfg': {'type': 'BN'}},
        'patch_embed1 | block1 | patch_embed{n} block{n} 2-4',
    ),
    (
        'mmseg',
        'PIDNet',
        {},
        'stem | i_branch_layers.{i} p_branch_layers.{i} d_branch_layers.{i} 1-3 ; '
        'compression_1 compression_2 pag_1 pag_2 diff_1 diff_2 spp dfm',
    ),
    ('mmseg', 'ResNeSt', {'depth': 50}, 'stem | layer{n} 1-4'),
    ('mmseg', 'ResNetV1c', {'depth': 50}, 'stem | layer{n} 1-4'),
    (
        'mmseg',
        'STDCNet',
        {
            'stdc_type': 'STDCNet1',
            'in_channels': 3,
            'channels': (8, 16, 32, 64, 128),
            'bottleneck_type': 'cat',
            'norm_cfg': {'type': 'BN'},
            'act_cfg': {'type': 'ReLU'},
        },
        'stages.0 stages.1 | stages.2 | stages.3 | stages.4',
    ),
    ('mmseg', 'SwinTransformer', {}, 'patch_embed'),
    (
        'mmseg',
        'PCPVT',
        {
            'embed_dims': [32, 64, 128, 256],
            'num_heads': [1, 2, 4, 8],
            'mlp_ratios': [4, 4, 4, 4],
            'depths': [1, 1, 1, 1],
            'sr_ratios': [8, 4, 2, 1],
        },
        'patch_embeds.0 | layers.0 position_encodings.0 | '
        'patch_embeds.{i} layers.{i} position_encodings.{i} 2-3 | patch_embeds.3 position_encodings.3',
    ),
    (
        'mmseg',
        'SVT',
        {
            'embed_dims': [32, 64, 128],
            'num_heads': [1, 2, 4],
            'mlp_ratios': [4, 4, 4],
            'depths': [2, 2, 2],
            'windiow_sizes': [7, 7, 7],
            'sr_ratios': [4, 2, 1],
        },
        'patch_embeds.0 | layers.0 position_encodings.0 | patch_embeds.1 layers.1 position_encodings.1 | '
        'patch_embeds.2 position_encodings.2',
    ),
    ('mmseg', 'UNet', {}, ' | encoder.{i} 1-5 ; decoder'),
    ('mmseg', 'VisionTransformer', {}, 'patch_embed'),
    (
        'mmseg',
        'TIMMBackbone',
        {'model_name': 'resnet18', 'features_only': True, 'pretrained': False},
        'timm_model.conv1 | timm_model.layer{n} 1-4',
    ),
    ('mmpretrain', 'AlexNet', {}, None),
    ('mmpretrain', 'Conformer', {}, None),
    ('mmpretrain', 'ConvNeXt', {}, 'downsample_layers.0 | stages.0 | downsample_layers.{i} stages.{i} 2-4'),
    ('mmpretrain', 'CSPDarkNet', {'depth': 53}, 'stem | stages.{i} 1-5'),
    ('mmpretrain', 'CSPResNet', {'depth': 50}, 'stem | stages.{i} 1-4'),
    ('mmpretrain', 'CSPResNeXt', {'depth': 50}, 'stem | stages.{i} 1-4'),
    (
        'mmpretrain',
        'DaViT',
        {},
        'patch_embed | stages.0.blocks | stages.{h}.downsample stages.{i}.blocks 2-3 | stages.2.downsample stages.3',
    ),
    ('mmpretrain', 'DenseNet', {}, 'stem | stages.0 | stages.{i} transitions.{h} 2-4'),
    (
        'mmpretrain',
        'EdgeNeXt',
        {'arch': 'xxsmall'},
        'downsample_layers.0 | stages.0 | downsample_layers.{i} stages.{i} 2-4',
    ),
    ('mmpretrain', 'EfficientFormer', {'arch': 'l1'}, 'patch_embed | network.{i} 1-4'),
    ('mmpretrain', 'EfficientNet', {'arch': 'b0'}, 'layers.0 | layers.{n} 1-5 ; layers.6'),
    ('mmpretrain', 'EfficientNetV2', {'arch': 'b0'}, 'layers.0 | layers.{n} 1-6 ; layers.7'),
    ('mmpretrain', 'HiViT', {}, 'patch_embed'),
    ('mmpretrain', 'HorNet', {'arch': 'tiny'}, 'downsample_layers.0 | stages.0 | downsample_layers.{i} stages.{i} 2-4'),
    ('mmpretrain', 'HRNet', {'arch': 'w18'}, 'conv1 conv2 | layer1 | transition{i} stage{n} 2-4'),
    ('mmpretrain', 'InceptionV3', {}, None),
    ('mmpretrain', 'LeNet5', {}, None),
    ('mmpretrain', 'LeViT', {'arch': '128s'}, 'patch_embed'),
    ('mmpretrain', 'MixMIMTransformer', {}, 'patch_embed'),
    ('mmpretrain', 'MobileNetV2', {}, 'conv1 | layer{n} 1-7 ; conv2'),
    ('mmpretrain', 'MobileNetV3', {'arch': 'small'}, 'layer0 | layer{n} 1-11 ; layer12'),
    ('mmpretrain', 'MobileOne', {'arch': 's0'}, 'stage0 | stage{n} 1-4'),
    ('mmpretrain', 'MobileViT', {'arch': 'small'}, 'stem | layers.{i} 1-5 ; conv_1x1_exp'),
    (
        'mmpretrain',
        'MViT',
        {'arch': 'tiny'},
        'patch_embed | blocks.0 | blocks.1 blocks.2 | blocks.3 blocks.4 blocks.5 blocks.6 blocks.7 | blocks.8 blocks.9',
    ),
    (
        'mmpretrain',
        'PoolFormer',
        {'arch': 's12'},
        'patch_embed | network.0 | network.1 network.2 | network.3 network.4 | network.5 network.6',
    ),
    ('mmpretrain', 'RegNet', {'arch': 'regnetx_400mf'}, 'conv1 | layer{n} 1-4'),
    ('mmpretrain', 'RepLKNet', {'arch': '31B'}, 'stem | stages.0 | stages.{i} transitions.{h} 2-4'),
    ('mmpretrain', 'RepMLPNet', {'arch': 'B'}, 'patch_embed | stages.0 | stages.{i} downsample_layers.{h} 2-4'),
    ('mmpretrain', 'RepVGG', {'arch': 'A0'}, 'stem | stage_{n} 1-4'),
    ('mmpretrain', 'Res2Net', {'depth': 50, 'scales': 4}, 'stem | layer{n} 1-4'),
    ('mmpretrain', 'ResNeSt', {'depth': 50}, 'stem | layer{n} 1-4'),
    ('mmpretrain', 'ResNet_CIFAR', {'depth': 18}, 'conv1 | layer{n} 1-4'),
    (
        'mmpretrain',
        'RIFormer',
        {'arch': 's12'},
        'patch_embed | network.0 | network.1 network.2 | network.3 network.4 | network.5 network.6',
    ),
    ('mmpretrain', 'SEResNet', {'depth': 50}, 'conv1 | layer{n} 1-4'),
    ('mmpretrain', 'ShuffleNetV1', {}, 'conv1 | layers.{i} 1-3'),
    ('mmpretrain', 'ShuffleNetV2', {}, 'conv1 | layers.{i} 1-3 ; layers.3'),
    (
        'mmpretrain',
        'SparseConvNeXt',
        {'arch': 'small'},
        'downsample_layers.0 | stages.0 | downsample_layers.{i} stages.{i} 2-4',
    ),
    ('mmpretrain', 'SparseResNet', {'depth': 50}, 'conv1 | layer{n} 1-4'),
    ('mmpretrain', 'SwinTransformer', {}, 'patch_embed'),
    ('mmpretrain', 'SwinTransformerV2', {}, 'patch_embed'),
    ('mmpretrain', 'T2T_ViT', {}, None),
    (
        'mmpretrain',
        'TinyViT',
        {'arch': '5m'},
        'patch_embed | stages.0.blocks | stages.{h}.downsample stages.{i}.blocks 2-3 | stages.2.downsample stages.3',
    ),
    ('mmpretrain', 'TNT', {}, 'pixel_embed'),
    (
        'mmpretrain',
        'PCPVT',
        {'arch': 'small'},
        'patch_embeds.0 | stages.0 position_encodings.0 | '
        'patch_embeds.{i} stages.{i} position_encodings.{i} 2-3 | patch_embeds.3 position_encodings.3',
    ),
    (
        'mmpretrain',
        'SVT',
        {'arch': 'small'},
        'patch_embeds.0 | stages.0 position_encodings.0 | '
        'patch_embeds.{i} stages.{i} position_encodings.{i} 2-3 | patch_embeds.3 position_encodings.3',
    ),
    ('mmpretrain', 'VAN', {'arch': 'tiny'}, 'patch_embed1 | blocks1 | patch_embed{n} blocks{n} 2-4'),
    ('mmpretrain', 'VGG', {'depth': 11}, None),
    ('mmpretrain', 'PyramidVig', {'arch': 'tiny'}, 'stem | stages.{i} 1-4'),
    (
        'mmpretrain',
        'XCiT',
        {
            'patch_size': 16,
            'embed_dims': 64,
            'depth': 2,
            'num_heads': 2,
            'mlp_ratio': 4,
            'qkv_bias': True,
            'layer_scale_init_value': 1.0,
            'tokens_norm': True,
            'out_type': 'raw',
        },
        None,
    ),
    ('mmpretrain', 'VisionTransformer', {}, 'patch_embed'),
]
OTHERS = [
    ('torchvision', 'resnet18', False, 'conv1 | layer{n} 1-4'),
    (
        'torchvision',
        'densenet121',
        False,
        'features.conv0 | features.denseblock1 | features.transition{i} features.denseblock{n} 2-4',
    ),
    (
        'torchvision',
        'convnext_tiny',
        False,
        'features.0 | features.1 | features.2 features.3 | features.4 features.5 | features.6 features.7',
    ),
    ('torchvision', 'swin_t', False, 'features'),
    ('torchvision', 'regnet_y_400mf', False, 'stem | trunk_output.block{n} 1-4'),
    ('torchvision', 'shufflenet_v2_x1_0', False, 'conv1 | stage2 | stage3 | stage4 ; conv5'),
    ('timm', 'resnet18', False, 'conv1 | layer{n} 1-4'),
    ('timm', 'resnet18', True, 'conv1 | layer{n} 1-4'),
    ('timm', 'convnext_atto', False, 'stem | stages.{i} 1-4'),
    ('timm', 'convnext_atto', True, 'stem_0 | stages_{i} 1-4'),
    ('timm', 'efficientnet_b0', False, 'conv_stem | blocks.{i} 1-7 ; conv_head'),
    ('timm', 'efficientnet_b0', True, 'conv_stem | blocks.{i} 1-7'),
    ('timm', 'regnetx_002', False, 'stem | s{n} 1-4'),
    ('timm', 'regnetx_002', True, 'stem | s{n} 1-4'),
    (
        'timm',
        'densenet121',
        False,
        'features.conv0 | features.denseblock1 | features.transition{i} features.denseblock{n} 2-4',
    ),
    (
        'timm',
        'densenet121',
        True,
        'features_conv0 | features_denseblock1 | features_transition{i} features_denseblock{n} 2-4',
    ),
    ('timm', 'mobilenetv3_small_050', False, 'conv_stem | blocks.{i} 1-6 ; conv_head'),
    ('timm', 'mobilenetv3_small_050', True, 'conv_stem | blocks.{i} 1-6'),
    ('timm', 'inception_next_atto', False, 'stem | stages.{i} 1-4'),
    ('timm', 'inception_next_atto', True, 'stem_0 | stages_{i} 1-4'),
    ('timm', 'fasternet_t0', False, 'patch_embed | stages.{i} 1-4 ; conv_head'),
    ('timm', 'fasternet_t0', True, 'patch_embed | stages_{i} 1-4'),
    ('timm', 'mixnet_s', False, 'conv_stem | blocks.{i} 1-6 ; conv_head'),
    ('timm', 'mixnet_s', True, 'conv_stem | blocks.{i} 1-6'),
    (
        'timm',
        'hrnet_w18_small',
        False,
        'conv1 conv2 | layer1 | transition{i} stage{n} 2-4 ; incre_modules downsamp_modules final_layer',
    ),
    ('timm', 'hrnet_w18_small', True, 'conv1 conv2 | layer1 | transition{i} stage{n} 2-4 ; incre_modules'),
    ('timm', 'swin_tiny_patch4_window7_224', False, 'patch_embed'),
    ('timm', 'swin_tiny_patch4_window7_224', True, 'patch_embed'),
    ('timm', 'pvt_v2_b0', False, 'patch_embed | stages.{i} 1-4'),
    ('timm', 'pvt_v2_b0', True, 'patch_embed | stages_{i} 1-4'),
    ('timm', 'fastvit_t8', False, 'stem | stages.{i} 1-4 ; final_conv'),
    ('timm', 'fastvit_t8', True, 'stem_0 stem_1 stem_2 | stages_{i} 1-4'),
    (
        'timm',
        'twins_pcpvt_small',
        False,
        'patch_embeds.0 | blocks.0 pos_block.0 | patch_embeds.{i} blocks.{i} pos_block.{i} 2-3 | '
        'patch_embeds.3 pos_block.3',
    ),
    (
        'timm',
        'twins_pcpvt_small',
        True,
        'model.patch_embeds.0 | model.blocks.0 model.pos_block.0 | '
        'model.patch_embeds.{i} model.blocks.{i} model.pos_block.{i} 2-3 | model.patch_embeds.3 model.pos_block.3',
    ),
    ('timm', 'edgenext_xx_small', False, 'stem | stages.{i} 1-4'),
    ('timm', 'edgenext_xx_small', True, 'stem_0 | stages_{i} 1-4'),
    ('timm', 'poolformer_s12', False, 'stem | stages.{i} 1-4'),
    ('timm', 'poolformer_s12', True, 'stem | stages_{i} 1-4'),
    ('timm', 'dla34', False, 'base_layer level0 | level{n} 1-5 ; fc'),
    ('timm', 'dla34', True, 'base_layer level0 | level{n} 1-5'),
    ('timm', 'seresnext50_32x4d', False, 'conv1 | layer{n} 1-4'),
    ('timm', 'seresnext50_32x4d', True, 'conv1 | layer{n} 1-4'),
    ('timm', 'mobileone_s0', False, 'stem | stages.{i} 1-4'),
    ('timm', 'mobileone_s0', True, 'stem | stages_{i} 1-4'),
    ('timm', 'cspresnet50', False, 'stem | stages.{i} 1-4'),
    ('timm', 'cspresnet50', True, 'stem_conv1 | stages_{i} 1-4'),
    ('timm', 'tiny_vit_5m_224', False, 'patch_embed | stages.{i} 1-4'),
    ('timm', 'tiny_vit_5m_224', True, 'patch_embed | stages_{i} 1-4'),
    ('timm', 'legacy_seresnet18', False, 'layer0 | layer{n} 1-4'),
    ('timm', 'legacy_seresnet18', True, 'layer0 | layer{n} 1-4'),
    ('timm', 'nf_resnet50', False, 'stem | stages.{i} 1-4'),
    ('timm', 'nf_resnet50', True, 'stem_conv | stages_{i} 1-4'),
    ('timm', 'darknet53', False, 'stem | stages.{i} 1-5'),
    ('timm', 'darknet53', True, 'stem_conv1 | stages_{i} 1-5'),
]
# Built in every run: one network of each way of naming stages.
QUICK = {
    'ConvNeXt', 'DaViT', 'DenseNet', 'EfficientNet', 'HRNet', 'MixVisionTransformer', 'MobileNetV3', 'MSCAN', 'PCPVT',
    'PoolFormer', 'RepMLPNet', 'ShuffleNetV2', 'STDCNet', 'SwinTransformer', 'VGG',
    'convnext_atto', 'densenet121', 'fasternet_t0', 'regnetx_002', 'resnet18', 'shufflenet_v2_x1_0',
}  # fmt: skip


def long(cases):
    """Mark the cases that are not built in every run."""
    return [pytest.param(*c, marks=() if c[1] in QUICK else pytest.mark.long, id=f'{c[0]}-{c[1]}') for c in cases]


def expanded(text):
    """Write every stage out: `layer{n} 1-2` becomes `layer1 | layer2`."""
    if text is None:
        return None
    stages, separator, outside = text.partition(' ; ')
    written = []
    for stage in stages.split(' | '):
        if match := re.fullmatch(r'(.+) (\d+)-(\d+)', stage):
            written += [match[1].format(n=n, i=n - 1, h=n - 2) for n in range(int(match[2]), int(match[3]) + 1)]
        else:
            written.append(stage)
    return ' | '.join(written) + separator + outside


def convolutions(net):
    return [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d)]


def cover(names, chosen):
    """Return the outermost modules that hold exactly the chosen ones of all convolutions."""
    found, todo = [], list(dict.fromkeys(name.split('.')[0] for name in names))
    while todo:
        place = todo.pop(0)
        inside = [name for name in names if f'{name}.'.startswith(f'{place}.')]
        if all(name in chosen for name in inside):
            found.append(place)
        elif any(name in chosen for name in inside):
            depth = place.count('.') + 2
            todo[:0] = dict.fromkeys('.'.join(name.split('.')[:depth]) for name in inside)
    return ' '.join(found)


def described(net):
    names = convolutions(net)
    stages = find_stages(net, names)
    if stages is None:
        return None
    count = max(stage or 0 for stage in stages.values()) + 1
    text = ' | '.join(cover(names, {n for n in names if stages[n] == i}) for i in range(count))
    outside = cover(names, {n for n in names if stages[n] is None})
    return f'{text} ; {outside}' if outside else text


def on_meta(build):
    """Build a network without memory if it can be: many call `.item()` on drop rates, which needs values."""
    try:
        with torch.device('meta'):
            return build()
    except (NotImplementedError, RuntimeError):
        return build()


@pytest.mark.parametrize(('library', 'kind', 'options', 'expected'), long(NETWORKS))
def test_stages_of_the_three_libraries(library, kind, options, expected):
    pytest.importorskip(library)
    if kind == 'TIMMBackbone':
        pytest.importorskip('timm')
    from mmengine.registry import init_default_scope

    import_module(f'{library}.models')
    init_default_scope(library)
    registry = import_module(f'{library}.registry').MODELS
    if registry.get(kind) is None:
        pytest.skip(f'{library} of this distribution has no {kind}')
    assert described(on_meta(lambda: registry.build({'type': kind, **options}))) == expanded(expected)


@pytest.mark.parametrize(('library', 'name', 'features_only', 'expected'), long(OTHERS))
def test_stages_of_torchvision_and_timm(library, name, features_only, expected):
    if library == 'torchvision':
        net = torchvision.models.get_model(name)
    else:
        timm = pytest.importorskip('timm')
        if name not in timm.list_models():
            pytest.skip(f'this version of timm has no {name}')
        net = timm.create_model(name, features_only=features_only)
    assert described(net) == expanded(expected)


def test_a_detectors_stages_are_its_backbones():
    net = nn.ModuleDict({'backbone': torchvision.models.resnet18(), 'neck': nn.Conv2d(4, 4, 3)})
    names = ['backbone.conv1', 'backbone.layer2.0.conv1', 'neck']
    assert find_stages(net, names) == {'backbone.conv1': 0, 'backbone.layer2.0.conv1': 2, 'neck': None}


def test_the_stem_of_a_network_with_downsampling_between_stages_is_one_convolution():
    net = torchvision.models.convnext_tiny()
    mmkerv.convert(net, {'type': 'KervConv'}, {'stages': ()})
    assert [name for name, m in net.named_modules() if isinstance(m, KervConv2d)] == ['features.0.0']


def test_the_layers_of_a_transformers_block_are_no_stages():
    ffn = nn.Module()
    ffn.layers = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 4), nn.Dropout())
    assert find_stages(nn.Sequential(nn.Conv2d(4, 4, 1), ffn), []) is None
