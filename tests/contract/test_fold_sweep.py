"""Sixty networks of upstream: converting them changes nothing, and the fold tool folds them exactly."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

pytest.importorskip('mmcv')

import mmkerv
from mmkerv.deploy.compared_outputs import computable
from mmkerv.deploy.fold import fold_checkpoint, shapes_to_try
from mmkerv.deploy.model_outputs import largest_difference, sample_inputs
from mmkerv.deploy.trained_model import built
from mmkerv.ops import CoCConv2d
from mmkerv.ops.core.generated import relative_change
from tests.contract.test_configs import without_downloads

COC = dict(type='mmkerv.CoCConv')
CONFIGS = {
    'mmdet': """
        atss/atss_r50_fpn_1x_coco
        cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco
        centernet/centernet_r18_8xb16-crop512-140e_coco
        condinst/condinst_r50_fpn_ms-poly-90k_coco_instance
        detr/detr_r18_8xb2-500e_coco
        dino/dino-4scale_r50_8xb2-12e_coco
        fast_rcnn/fast-rcnn_r50_fpn_1x_coco
        faster_rcnn/faster-rcnn_r50_fpn_1x_coco
        fcos/fcos_r50-caffe_fpn_gn-head_1x_coco
        hrnet/fcos_hrnetv2p-w18-gn-head_4xb4-1x_coco
        mask2former/mask2former_r50_8xb2-lsj-50e_coco
        point_rend/point-rend_r50-caffe_fpn_ms-1x_coco
        pvt/retinanet_pvt-t_fpn_1x_coco
        regnet/retinanet_regnetx-800MF_fpn_1x_coco
        retinanet/retinanet_r18_fpn_1x_coco
        rtmdet/rtmdet_tiny_8xb32-300e_coco
        rtmdet/rtmdet-ins_tiny_8xb32-300e_coco
        solo/solo_r18_fpn_8xb8-lsj-200e_coco
        yolo/yolov3_mobilenetv2_8xb24-320-300e_coco
        yolox/yolox_tiny_8xb8-300e_coco
    """,
    'mmseg': """
        bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024
        bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024
        cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680
        ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024
        deeplabv3plus/deeplabv3plus_r18-d8_4xb4-80k_isaid-896x896
        erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024
        fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024
        hrnet/fcn_hr18_4xb4-80k_isaid-896x896
        icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832
        mask2former/mask2former_r50_8xb2-160k_ade20k-512x512
        mobilenet_v2/mobilenet-v2-d8_fcn_4xb4-160k_ade20k-512x512
        mobilenet_v3/mobilenet-v3-d8-s_lraspp_4xb4-320k_cityscapes-512x1024
        ocrnet/ocrnet_hr18s_4xb4-40k_voc12aug-512x512
        pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes
        point_rend/pointrend_r50_4xb4-160k_ade20k-512x512
        pspnet/pspnet_r18-d8_4xb4-80k_isaid-896x896
        segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512
        stdc/stdc1_4xb12-80k_cityscapes-512x1024
        swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512
        upernet/upernet_r18_4xb4-80k_ade20k-512x512
    """,
    'mmpretrain': """
        convnext_v2/convnext-v2-atto_32xb32_in1k
        davit/davit-tiny_4xb256_in1k
        densenet/densenet121_4xb256_in1k
        efficientnet/efficientnet-b0_8xb32_in1k
        hrnet/hrnet-w18_4xb32_in1k
        mobilenet_v2/mobilenet-v2_8xb32_in1k
        mobilenet_v3/mobilenet-v3-small_8xb128_in1k
        mobileone/mobileone-s0_8xb32_in1k
        mobilevit/mobilevit-xxsmall_8xb128_in1k
        poolformer/poolformer-s12_32xb128_in1k
        regnet/regnetx-400mf_8xb128_in1k
        repvgg/repvgg-A0_8xb32_in1k
        res2net/res2net50-w14-s8_8xb32_in1k
        resnet/resnet18_8xb32_in1k
        resnext/resnext50-32x4d_8xb32_in1k
        seresnet/seresnet50_8xb32_in1k
        shufflenet_v1/shufflenet-v1-1x_16xb64_in1k
        shufflenet_v2/shufflenet-v2-1x_16xb64_in1k
        vgg/vgg11bn_8xb32_in1k
        xcit/xcit-nano-12-p8_8xb128_in1k
    """,
}


def config(library: str, name: str) -> Config:
    """Read a config of an installed library, with a network that is drawn at random."""
    spec = importlib.util.find_spec(library)
    if spec is None:
        pytest.skip(f'{library} is not installed')
    cfg = Config.fromfile(Path(spec.origin).parent / '.mim' / 'configs' / f'{name}.py')
    without_downloads(cfg.model)
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return cfg


@torch.no_grad()
def move_super_layers(model: nn.Module) -> None:
    """Change every super kernel until |K - W| = 0.3 |W|."""
    for operator in model.modules():
        if isinstance(operator, CoCConv2d):
            weight = operator.super_layers[0].weight.normal_(std=0.1)
            weight.mul_(0.3 / relative_change(operator.kernel(), operator.weight))


@pytest.mark.long
@pytest.mark.parametrize(
    ('library', 'name'),
    [pytest.param(lib, name, id=f'{lib}-{name}') for lib in CONFIGS for name in CONFIGS[lib].split()],
)
def test_a_network_of_upstream_converts_and_folds_exactly(library, name, tmp_path):
    cfg = config(library, name)
    torch.manual_seed(0)
    plain = built(cfg)
    plain.init_weights()
    kind, shape = computable(plain.eval(), shapes_to_try(cfg, plain))
    inputs, samples = next(sample_inputs(plain, shape))
    expected = kind.of(plain, inputs, samples)
    sizes = {m.kernel_size for m in plain.modules() if isinstance(m, nn.Conv2d)}
    # CoC exists for odd sizes only.
    where = dict(kernel_sizes=sorted(size for size in sizes if max(size) > 1 and all(n % 2 for n in size)))
    model = mmkerv.convert(copy.deepcopy(plain), COC, where)
    assert largest_difference(expected, kind.of(model, inputs, samples)) == 0
    move_super_layers(model)
    # A random YOLOv3 computes little but the biases of its head.
    assert largest_difference(expected, kind.of(model, inputs, samples)) > 1e-6
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'a.pth')
    cfg.model = dict(type='mmkerv.Converted', backbone=cfg.model, conv_cfg=COC, where=where)
    result = fold_checkpoint(cfg, tmp_path / 'a.pth', tmp_path / 'folded.pth', shape=shape)
    assert result.error == 0 and result.compared == kind.name
    assert not result.report.kept and min(result.associations) > 0.25
