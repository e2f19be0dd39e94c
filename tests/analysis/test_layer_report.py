"""Layer reports: totals, receptive fields, costs of other forms, and text."""

import csv
import io
import json
import math

import pytest
import torch
from torch import nn

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')
from mmengine.registry import init_default_scope

from mmkerv.analysis.complexity import complexity
from mmkerv.analysis.conv_forms import Cost, Shape, forms
from mmkerv.analysis.layer_report import layer_report, to_csv, to_json, to_markdown
from mmkerv.analysis.receptive_field import followed
from mmkerv.ops import (
    CKConv1d,
    CKConv2d,
    CoCConv2d,
    CondConv2d,
    DepthwiseSeparableConv2d,
    KervConv2d,
    SpatiallySeparableConv2d,
)
from tests.engine.small_networks import NETWORKS, associated


def mixed():
    torch.manual_seed(0)
    return nn.Sequential(
        CoCConv2d(3, 8, 7, 2, 3),
        nn.BatchNorm2d(8),
        KervConv2d(8, 8, 3, padding=1),
        DepthwiseSeparableConv2d(8, 16, 5, padding=2),
        SpatiallySeparableConv2d(16, 8, (3, 5), 2, (1, 2)),
        CKConv2d(8, 8, 5, padding=2, separable=True),
        nn.ConvTranspose2d(8, 4, 4, 2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    ).eval()


@pytest.mark.parametrize('name', ['mask_rcnn', 'segmentor', 'classifier', 'mixed'])
def test_totals_are_those_of_the_whole_network(name):
    if name == 'mixed':
        model = mixed()
    else:
        pytest.importorskip({'classifier': 'mmpretrain', 'segmentor': 'mmseg'}.get(name, 'mmdet'))
        cfg = NETWORKS[name]()
        init_default_scope(cfg.default_scope)
        model = associated(cfg)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report, whole = layer_report(model, (64, 64)), complexity(model, (64, 64))
    assert report.total == Cost(whole.parameters, whole.image)
    assert report.kernels == whole.kernels
    # Little is in no row, so the rows are not empty.
    assert 0 <= report.other.macs < 0.1 * whole.image and report.other.weights < 0.1 * whole.parameters
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_rows_agree_with_the_formulas():
    rows = {row.operator: row for row in layer_report(mixed(), (32, 32)).layers}
    assert rows['CoCConv2d'].macs == 16 * 16 * 8 * 3 * 49 and rows['CoCConv2d'].output == (16, 16)
    assert rows['KervConv2d'].macs == 16 * 16 * 8 * 8 * 9
    assert rows['DepthwiseSeparableConv2d'].macs == 16 * 16 * (8 * 25 + 8 * 16)
    assert rows['SpatiallySeparableConv2d'].macs == 8 * (3 * 16) * 8 * 16 + 8 * (5 * 8) * 8 * 8
    assert rows['ConvTranspose2d'].output == (16, 16)
    assert rows['Linear'].parameters == 25 and rows['Linear'].macs == 20
    folds = {operator: row.folds_to for operator, row in rows.items()}
    assert folds == {
        'CoCConv2d': 'Conv2d 7x7',
        'KervConv2d': 'nothing',
        'DepthwiseSeparableConv2d': 'Conv2d 5x5 depthwise + Conv2d 1x1',
        'SpatiallySeparableConv2d': 'Conv2d 3x1 + Conv2d 1x5',
        'CKConv2d': 'Conv2d 5x5 depthwise + Conv2d 1x1',
        'ConvTranspose2d': '',
        'Linear': '',
    }
    assert 'polynomial' in rows['KervConv2d'].reason


def test_separable_forms_cost_as_much_as_the_operators():
    plain = nn.Sequential(nn.Conv2d(12, 20, (5, 3), (2, 1), (2, 1), bias=False)).eval()
    (row,) = layer_report(plain, (20, 24)).layers
    for form, operator in (
        ('depthwise separable', DepthwiseSeparableConv2d),
        ('spatially separable', SpatiallySeparableConv2d),
    ):
        model = nn.Sequential(operator(12, 20, (5, 3), (2, 1), (2, 1), bias=False)).eval()
        whole = complexity(model, (20, 24))
        assert row.forms[form] == Cost(whole.parameters, whole.image)


def test_forms_have_the_weights_of_the_article():
    """A bottleneck of 32 for 3x3 and 256 channels has 25,600 weights; a 5x5 has 1.4 times those of two 3x3."""
    found = forms(Shape(256, 256, (3, 3), 1, 1, 1, 1))
    assert found['bottleneck 1/8'].weights == 256 * 32 + 9 * 32**2 + 32 * 256 == 25600
    assert found['2 groups'].weights == 2 * 9 * 128**2
    assert found['depthwise separable'].weights == 256 * 9 + 256**2
    assert 'stacked 3x3' not in found, 'a 3x3 has no stack'
    large = Shape(64, 64, (5, 5), 1, 1, 1, 1)
    assert large.cost().weights / forms(large)['stacked 3x3'].weights == pytest.approx(25 / 18)
    assert forms(large._replace(kernel=(7, 7)))['stacked 3x3'].weights == 3 * 9 * 64**2
    assert forms(large._replace(kernel=(1, 1))) == {} and 'stacked 3x3' not in forms(large._replace(kernel=(6, 6)))


def test_forms_of_a_depthwise_convolution():
    found = forms(Shape(8, 8, (5, 5), 8, 4, 4, 4))
    assert found == {'stacked 3x3': Cost(144, 576), 'spatially separable': Cost(80, 320)}


def test_macs_of_forms_count_where_each_convolution_runs():
    shape = Shape(16, 16, (3, 3), 1, before=400, between=200, after=100)
    found = forms(shape)
    assert found['bottleneck 1/8'].macs == 16 * 2 * 400 + (2 * 2 * 9 + 2 * 16) * 100
    assert found['spatially separable'].macs == 3 * 256 * 200 + 3 * 256 * 100
    assert found['depthwise separable'].macs == (16 * 9 + 256) * 100


def reach(model, size):
    """Number of pixels along each axis that change a value, by gradients through positive weights."""
    x = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    for parameter in model.double().parameters():
        nn.init.uniform_(parameter, 0.5, 1.0)
    output = model(x)
    output[0, :, output.shape[2] // 2, output.shape[3] // 2].sum().backward()
    changed = x.grad[0].abs().sum(0).nonzero()
    return tuple((changed.max(0).values - changed.min(0).values + 1).tolist())


NETS = {
    'stack': lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)),
    'strides': lambda: nn.Sequential(nn.Conv2d(3, 2, 5, 2), nn.AvgPool2d(2), nn.Conv2d(2, 2, 3, dilation=2)),
    'axes': lambda: nn.Sequential(nn.Conv2d(3, 2, (1, 7)), nn.Conv2d(2, 2, (5, 1), (2, 1)), nn.Conv2d(2, 2, 3)),
    'separable': lambda: nn.Sequential(SpatiallySeparableConv2d(3, 2, (3, 5)), DepthwiseSeparableConv2d(2, 2, 3)),
}


@pytest.mark.parametrize('name', NETS)
def test_the_receptive_field_is_the_support_of_the_gradient(name):
    model, image = NETS[name](), torch.rand(1, 3, 48, 48)
    with followed(model, image) as fields:
        model(image)
    assert list(fields.values())[-1].size == reach(model, 48)


@pytest.mark.parametrize(('name', 'size'), [('vgg16', 196), ('resnet18', 435), ('mobilenet_v2', 491)])
def test_receptive_fields_of_known_networks(name, size):
    """Araujo, Norris and Sim, Distill 2019. Their 212 of VGG-16 includes the last pooling, which adds 16."""
    models = pytest.importorskip('torchvision').models
    model, image = getattr(models, name)(weights=None).eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad(), followed(model, image) as fields:
        model(image)
    convs = [field.size for module, field in fields.items() if max(module.kernel_size) > 1 or name == 'mobilenet_v2']
    assert convs[-1] == (size, size)


def test_a_kernel_of_the_whole_image_has_an_infinite_field():
    model, image = nn.Sequential(nn.Conv2d(3, 4, 3), CondConv2d(4, 4, 3)), torch.rand(1, 3, 16, 16)
    with followed(model, image) as fields:
        model(image)
    assert fields[model[0]].size == (3, 3) and fields[model[1]].size == (math.inf, math.inf)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 7, padding=3)
        self.last = nn.Conv2d(3, 3, 3)

    def forward(self, x):
        return self.last(x + torch.cat([self.large(x)[:, :1], self.small(x)[:, 1:]], 1))


def test_the_widest_path_counts():
    model, image = Branches(), torch.rand(1, 3, 16, 16)
    with followed(model, image) as fields:
        model(image)
    assert [fields[module].size for module in model.children()] == [(3, 3), (7, 7), (9, 9)]


def test_global_pooling_is_infinite_and_resizing_keeps_the_distance():
    squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 3, 1))
    resize = nn.Sequential(nn.Conv2d(3, 3, 1, 2), nn.Upsample(scale_factor=2), nn.Conv2d(3, 3, 3))
    image = torch.rand(1, 3, 8, 8)
    for model, size in ((squeeze, math.inf), (resize, 3)):
        with followed(model, image) as fields:
            model(image)
        assert list(fields.values())[-1].size == (size, size)


def test_a_1d_operator_on_the_row_of_an_image():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = CKConv1d(1, 2, 9)

        def forward(self, x):
            return self.conv(x[:, :, 0])

    (row,) = layer_report(Network().eval(), (1, 30)).layers
    assert row.operator == 'CKConv1d' and row.field == (1, 9) and row.kernel == (9,) and row.forms == {}


def test_a_layer_that_gets_its_input_by_name():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, bias=False), CoCConv2d(8, 4, 3, bias=False)

        def forward(self, x):
            return self.second(input=self.first(input=x))

    rows = layer_report(Network().eval(), (9, 9)).layers
    assert [(row.operator, row.field) for row in rows] == [('Conv2d', (3, 3)), ('CoCConv2d', (5, 5))]
    assert rows[0].macs == 49 * 216


def test_a_shared_layer_counts_parameters_once_and_macs_per_call():
    conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
    # Hosts rewrite the geometry of built layers.
    conv.stride = 1
    (row,) = layer_report(nn.Sequential(conv, nn.ReLU(), conv).eval(), (8, 8)).layers
    assert (row.calls, row.parameters, row.macs, row.field) == (2, 81, 2 * 64 * 81, (5, 5))
    assert row.stride == (1, 1)


def test_csv_json_and_markdown_contain_the_totals():
    report = layer_report(mixed(), (32, 32))
    records = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert sum(int(r['macs']) for r in records) == report.total.macs
    assert sum(int(r['parameters']) for r in records) == report.total.weights
    content = json.loads(to_json(report))
    assert content['total'] == {'parameters': report.total.weights, 'macs': report.total.macs}
    assert [layer['operator'] for layer in content['layers']] == [layer.operator for layer in report.layers]
    text = to_markdown(report, 'mixed')
    assert text.startswith('# mixed\n') and 'KervConv2d: KervConv2d with kernel' in text
    rows = [line for line in text.split('##')[0].splitlines() if line.startswith('|')]
    assert len(rows) == 2 + len(report.layers) and len({line.count('|') for line in rows}) == 1
