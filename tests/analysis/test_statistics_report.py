"""The report on a network's kernels: of which kernel, what it leaves out, shifts, text."""

import csv
import io
import json

import pytest
import torch
from torch import nn

pytest.importorskip('mmengine')

from mmkerv.analysis.kernel_statistics import sparsity, variance_entropy
from mmkerv.analysis.statistics_report import (
    COLUMNS,
    convolving_kernel,
    kernels_of,
    shifts,
    statistics_report,
    to_csv,
    to_json,
    to_markdown,
    without_kernel,
)
from mmkerv.ops import (
    CKConv1d,
    CKConv2d,
    CoCConv2d,
    CondConv2d,
    DepthwiseSeparableConv2d,
    KervConv2d,
    MixConv2d,
    RecConv2d,
    ReparamConv2d,
    switch_to_deploy,
)
from mmkerv.ops.core.dynamic import DynamicKernel
from mmkerv.ops.core.generated import relative_change
from mmkerv.ops.core.response import Response
from mmkerv.ops.losses import orthogonality_loss
from tests.ops.catalogue import VARIANTS, layer


class Standardised(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


def mixed():
    torch.manual_seed(0)
    model = nn.Sequential(
        CoCConv2d(3, 8, 3, super_init='kaiming'),
        KervConv2d(8, 8, 3, kernel='linear'),
        KervConv2d(8, 8, 3),
        CondConv2d(8, 8, 3),
        RecConv2d(8, 8, 3, padding=1, groups=8),
        DepthwiseSeparableConv2d(8, 8, 3),
        MixConv2d(8, 8, 7, padding=3, groups=8),
        ReparamConv2d(8, 8, 3, padding=1, branches=[(1, 1)]),
        CKConv2d(8, 8, 5, padding=2, separable=True),
        nn.Conv2d(8, 8, 1),
        Standardised(8, 8, 3),
        nn.ConvTranspose2d(8, 8, 2),
        nn.utils.parametrizations.orthogonal(nn.Conv2d(8, 4, 3)),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def test_the_kernel_is_that_of_the_folded_layer():
    """Where an operator folds into one convolution; else it is the basic weight, and the row says so."""
    model = mixed()
    kernels = kernels_of(model)
    assert list(kernels) == [str(n) for n in range(13) if n != 11]
    reasons = {name: kernel.reason for name, kernel in kernels.items() if kernel.reason}
    assert reasons == {
        '2': 'it has no kernel',
        '3': 'its kernel depends on the input',
        '4': 'it has no kernel',
        '10': 'a Standardised may convolve with another kernel than its weight',
    }
    assert without_kernel(kernels) == {'4': 'it has no kernel'}
    assert kernels['3'].values is model[3].weight and kernels['2'].values is model[2].weight
    assert torch.equal(kernels['12'].values, model[12].weight)
    switch_to_deploy(model, split='dense')
    for name in ('0', '1', '6', '7', '9'):
        assert torch.allclose(kernels[name].values, model[int(name)].weight, atol=1e-6), name


def test_statistics_of_a_row():
    model = mixed()
    found = {row.name: row for row in statistics_report(kernels_of(model))}
    coc = found['0']
    assert (coc.operator, coc.kernel, coc.channels, coc.groups, coc.slices) == ('CoCConv2d', (3, 3), (8, 3), 1, 24)
    kernel = model[0].kernel().detach().double()
    assert coc.values['entropy'] == pytest.approx(variance_entropy(kernel.flatten(2).flatten(0, 1)))
    assert coc.values['distance'] == pytest.approx(relative_change(model[0].kernel(), model[0].weight)) != 0
    # 8 filters in 3 channels.
    assert coc.values['gap'] == pytest.approx(float(orthogonality_loss(kernel, (1, 1), (1, 1), 1)) - 5)
    assert found['1'].values['distance'] is not None and not found['1'].basic
    assert found['6'].patterns and not found['7'].patterns
    # A 7x7 depthwise layer of three sizes of kernels has slices in many directions, and one filter in a group.
    assert found['6'].values['orthogonality'] is None and found['6'].values['entropy'] > 0
    assert {name: row.reasons.get('distance') for name, row in found.items() if name in '589'} == {
        '5': 'the operator has no basic weight',
        '8': 'the operator has no basic weight',
        '9': 'a plain convolution has no basic weight beside its kernel',
    }


def test_the_gap_counts_from_the_least_loss_of_the_shape():
    conv = nn.Conv2d(4, 8, 1, 2, bias=False)
    nn.init.orthogonal_(conv.weight)
    # Orthonormal columns: 8 rows in 4 dimensions have the least loss, 4.
    (row,) = statistics_report(kernels_of(nn.Sequential(conv)))
    assert row.values['gap'] == pytest.approx(0, abs=1e-5)
    conv.stride, conv.dilation = 2, 1
    assert statistics_report(kernels_of(nn.Sequential(conv))) == [row]
    assert float(orthogonality_loss(conv.weight, (2, 2), (1, 1), 1)) == pytest.approx(4, abs=1e-5)


@pytest.mark.parametrize('values', [0.0, 1.0, float('nan'), float('inf')], ids=str)
@pytest.mark.parametrize(
    'layer',
    [
        nn.Conv2d(1, 1, 1),
        nn.Conv2d(4, 4, 4, groups=4),
        nn.Conv2d(3, 2, (1, 7), 2),
        nn.Conv1d(2, 2, 9),
        nn.Conv3d(1, 2, 2),
    ],
    ids=['1x1', 'even', 'row', '1d', '3d'],
)
def test_every_statistic_has_a_value_or_a_reason(layer, values):
    nn.init.constant_(layer.weight, values)
    (row,) = statistics_report(kernels_of(nn.Sequential(layer)))
    for key in COLUMNS:
        value = row.values[key]
        assert (value is None) == bool(row.reasons.get(key)), key
        assert value is None or abs(value) < float('inf'), key
    assert json.loads(to_json([row], {}, []))
    assert 'nan' not in to_markdown([row], {}, [], 'net').replace('NaN or infinite', '')


def test_layers_inside_an_operator_belong_to_it():
    operator = CondConv2d(4, 4, 3)
    assert list(kernels_of(operator)) == [''] and not isinstance(operator, nn.Conv2d)
    assert any(isinstance(m, (nn.Linear, nn.Conv2d)) for m in operator.modules()) or list(operator.children())


def test_a_kernel_without_a_size_is_named():
    layer = CKConv1d(2, 2, None, causal=True)
    assert convolving_kernel(layer).reason == 'its kernel has no size before it has seen a sequence'
    assert without_kernel({'0': convolving_kernel(layer)})


def test_shifts_are_of_all_layers_of_a_size_and_of_each_layer():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 5))
    second = nn.Sequential(CoCConv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1))
    with torch.no_grad():
        second[0].weight.copy_(first[0].weight)
        second[1].weight.copy_(1.5 * first[1].weight)
    found = {row.name: row for row in shifts(kernels_of(first), kernels_of(second))}
    assert list(found) == ['3x3', '1x1', '0', '1', '2']
    # CoCConv starts as the plain convolution; a factor changes no direction.
    assert found['0'].shift == pytest.approx(0, abs=1e-9) and found['0'].distance == pytest.approx(0, abs=1e-6)
    assert found['1'].shift == pytest.approx(0, abs=1e-9) and found['1'].distance == pytest.approx(0.5)
    assert found['3x3'].slices == (24 + 64, 24 + 64) and found['3x3'].distance is None
    assert found['2'].shift is None and 'one tap' in found['2'].reason and found['2'].distance > 0.5


def test_texts():
    model = mixed()
    kernels = kernels_of(model)
    report, left = statistics_report(kernels), without_kernel(kernels)
    compared = shifts(kernels, kernels_of(mixed()))
    text = to_markdown(report, left, compared, 'mixed', 'other')
    table = [line for line in text.split('##')[0].splitlines() if line.startswith('|')]
    assert len(table) == 2 + len(report) and len({line.count('|') for line in table}) == 1
    for words in (
        'KervConv2d (basic weight)',
        'statistics of the basic weight: KervConv2d: it has no kernel (2)',
        'not in the table, without a basic weight: it has no kernel (4)',
        'slices of one tap have no directions (9)',
        '## Against other',
    ):
        assert words in text, words
    content = json.loads(to_json(report, left, compared))
    assert [layer['name'] for layer in content['layers']] == [row.name for row in report]
    assert content['layers'][0]['entropy'] == report[0].values['entropy'] and len(content['shifts']) == len(compared)
    records = list(csv.DictReader(io.StringIO(to_csv(report, left, compared))))
    assert len(records) == len(kernels) and float(records[0]['sparsity']) == report[0].values['sparsity']
    assert records[0]['moved'] and records[-1]['undefined'] == 'it has no kernel'
    assert 'shift' not in csv.DictReader(io.StringIO(to_csv(report, left, []))).fieldnames


def test_clean_columns_appear_with_sparse_slices_only():
    conv = nn.Conv2d(4, 4, 3)
    assert 'clean' not in to_markdown(statistics_report(kernels_of(nn.Sequential(conv))), {}, [], 'net')
    nn.init.zeros_(conv.weight[0].detach())
    (row,) = statistics_report(kernels_of(nn.Sequential(conv)))
    assert row.values['sparsity'] == sparsity(conv.weight.detach().flatten(2).flatten(0, 1)) == 0.25
    assert row.flags == ['sparse'] and row.values['clean_entropy'] != row.values['entropy']
    assert 'clean H' in to_markdown([row], {}, [], 'net')


@pytest.mark.parametrize('label', VARIANTS)
def test_every_operator_has_finite_statistics_or_a_reason(label):
    operator = layer(label).eval()
    kernel = convolving_kernel(operator)
    # Only these depend on the input, or are not linear in it.
    if not isinstance(operator, Response):
        assert bool(kernel.reason) == isinstance(operator, (DynamicKernel, RecConv2d))
    for row in statistics_report({'': kernel}):
        assert all((row.values[key] is None) == (key in row.reasons) for key in COLUMNS)
        assert row.values['spectral_norm'] >= 0
