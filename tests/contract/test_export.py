"""Folded networks and unfolded layers in ONNX and TorchScript; folded networks quantised."""

import copy
import io
import warnings

import pytest
import torch
from torch import nn

from mmkerv.errors import ArgumentError, ExportCheckError
from tests.ops.contract import relative

pytest.importorskip('mmengine')
pytest.importorskip('onnx', reason='onnx is not installed')
pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
from mmengine.registry import MODELS, init_default_scope

from mmkerv.deploy.onnx import DYNAMO_SINCE, RawOutputs, export_onnx
from mmkerv.ops import (
    CKConv2d,
    CoCConv2d,
    CondConv2d,
    DepthwiseSeparableConv2d,
    FDConv2d,
    KervConv2d,
    SpatiallySeparableConv2d,
    switch_to_deploy,
)
from mmkerv.ops.core.dynamic import exported_as
from tests.engine.small_networks import NETWORKS, SIZE, associated
from tests.ops.catalogue import VARIANTS, layer, sample
from tests.ops.test_fdconv import moved

TORCH = tuple(map(int, torch.__version__.split('.')[:2]))
SINCE_DYNAMO = pytest.mark.skipif(TORCH < DYNAMO_SINCE, reason='torch < 2.6')
EXPORTERS = ['legacy', pytest.param('dynamo', marks=SINCE_DYNAMO)]
ONE_STAGE = ['retinanet', 'segmentor', 'classifier']


@pytest.fixture(autouse=True)
def quiet():
    """Silence warnings: exporters and quantisation are deprecated, and the legacy exporter reports every branch."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


@pytest.fixture(scope='module')
def folded():
    """Build and fold networks whose super layers have moved the kernels, each once."""
    built = {}

    def folded(name: str) -> nn.Module:
        cfg = NETWORKS[name]()
        pytest.importorskip(cfg.default_scope)
        if name not in built:
            from mmengine.model import revert_sync_batchnorm

            model = revert_sync_batchnorm(associated(cfg)).eval()
            before = RawOutputs(model)(torch.ones(1, 3, *SIZE))
            assert len(switch_to_deploy(model).replaced) > 5
            assert all(relative(a, b) < 1e-3 for a, b in zip(RawOutputs(model)(torch.ones(1, 3, *SIZE)), before))
            built[name] = model
        return built[name]

    return folded


@pytest.mark.slow
@pytest.mark.parametrize('exporter', EXPORTERS)
@pytest.mark.parametrize('name', ONE_STAGE)
def test_a_folded_network_runs_in_onnxruntime_at_any_batch_and_size(folded, name, exporter, tmp_path):
    assert export_onnx(folded(name), tmp_path / 'net.onnx', (1, 3, *SIZE), exporter=exporter) < 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ['net.onnx']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda net: net.half(), r'parameters in torch\.float16; call model\.float\(\) first'),
        (lambda net: net.double(), r'parameters in torch\.float64; call model\.float\(\) first'),
        (lambda net: net.train(), r'modules are in training mode, such as Sequential; call model\.eval\(\) first'),
    ],
    ids=['half', 'double', 'training'],
)
def test_networks_that_cannot_be_compared_are_refused(change, message, tmp_path):
    net = change(nn.Sequential(CoCConv2d(3, 6, 3)).eval())
    with pytest.raises(ArgumentError, match=message):
        export_onnx(net, tmp_path / 'net.onnx', (1, 3, 8, 8))
    assert not list(tmp_path.iterdir())


LAYERS = {
    'polynomial': lambda: KervConv2d(3, 6, 3, padding=1, learnable=True),
    'gaussian': lambda: KervConv2d(3, 6, 3, padding=1, kernel='gaussian', learnable=True, per_channel=True),
    'l2': lambda: KervConv2d(3, 6, 3, padding=1, kernel='l2', stride=2),
    'sigmoid': lambda: KervConv2d(3, 6, 3, padding='same', kernel='sigmoid', groups=3),
    'l1': lambda: KervConv2d(3, 6, 3, padding=1, kernel='l1', groups=3),
    'manhattan': lambda: KervConv2d(3, 6, (3, 2), (2, 1), (1, 0), (1, 2), kernel='manhattan'),
    'arc-cosine': lambda: KervConv2d(3, 6, 3, padding=1, kernel='arc-cosine'),
    'cauchy': lambda: KervConv2d(3, 6, 3, padding=1, kernel='cauchy'),
    'euclidean': lambda: KervConv2d(3, 6, 3, padding=1, kernel='euclidean', padding_mode='reflect'),
    'CK': lambda: CKConv2d(3, 6, 7, padding=3, hidden=8),
    'CK separable': lambda: CKConv2d(3, 6, 7, padding=3, hidden=8, separable=True),
    'CK Fourier': lambda: CKConv2d(3, 6, 7, padding=3, hidden=8, method='fft'),
    'CoC': lambda: CoCConv2d(3, 6, 3, padding=1, super_init='kaiming'),
    'depthwise separable': lambda: DepthwiseSeparableConv2d(3, 6, 3, padding=1),
    'spatially separable': lambda: SpatiallySeparableConv2d(3, 6, 3, padding=1),
    'conditional': lambda: layer('Conditional', 3, 6),
    'conditional mixture': lambda: layer('Conditional mixture', 3, 6),
    'frequency dynamic': lambda: layer('Frequency dynamic', 3, 6),
    'frequency dynamic mixture': lambda: layer('Frequency dynamic mixture', 3, 6),
    'KAN': lambda: layer('KAN', 3, 6),
    'KAN gram': lambda: layer('KAN gram', 3, 6),
}
# Their export by dynamo takes 20 s each.
MIXTURES = ['conditional mixture', 'frequency dynamic mixture']


def unfolded(name: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), LAYERS[name](), nn.BatchNorm2d(6), nn.Tanh()).eval()


@pytest.mark.parametrize('exporter', EXPORTERS)
@pytest.mark.parametrize('name', [name for name in LAYERS if name not in MIXTURES])
def test_a_layer_that_is_not_folded_runs_in_onnxruntime(name, exporter, tmp_path):
    assert export_onnx(unfolded(name), tmp_path / 'net.onnx', (1, 3, 16, 20), exporter=exporter) < 1e-4


@pytest.mark.parametrize('exporter', ['legacy', pytest.param('dynamo', marks=[SINCE_DYNAMO, pytest.mark.long])])
@pytest.mark.parametrize('name', MIXTURES)
def test_a_mixture_of_kernels_runs_in_onnxruntime(name, exporter, tmp_path):
    test_a_layer_that_is_not_folded_runs_in_onnxruntime(name, exporter, tmp_path)


# mmdeploy's default is opset 11.
@pytest.mark.parametrize('opset', [11, 12])
@pytest.mark.parametrize('label', VARIANTS)
def test_every_layer_is_exported_in_old_opsets(label, opset):
    import onnxruntime

    model = nn.Sequential(layer(label), nn.Tanh()).eval()
    x, file = sample(model[0]), io.BytesIO()
    axes = {0: 'batch', **{axis: f'side{axis}' for axis in range(2, x.dim())}}
    settings = {'dynamo': False} if TORCH >= (2, 5) else {}
    torch.onnx.export(model, (x,), file, input_names=['x'], opset_version=opset, dynamic_axes={'x': axes}, **settings)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=['CPUExecutionProvider'])
    for batch, side in ((2, 7), (3, 9)):
        x = sample(model[0], batch, side)
        assert relative(torch.from_numpy(session.run(None, {'x': x.numpy()})[0]), model(x)) < 1e-4


# Without gates of taps, a mixture is a convolution for each expert or band and one for the weight.
FORMS = {
    'experts': (lambda: CondConv2d(3, 8, 3, padding=1, experts=4, channel=True, filter=True), 5),
    'bands': (lambda: FDConv2d(3, 8, 1, kernel_num=2, ksm_local=False), 3),
    'taps': (lambda: CondConv2d(3, 6, (3, 2), (1, 2), padding='valid', groups=3, experts=2, spatial=True), 18),
    'bands and taps': (
        lambda: FDConv2d(3, 6, 3, 2, 2, 2, groups=3, kernel_num=2, ksm_local=False, fbm=False, padding_mode='circular'),
        27,
    ),
}


@pytest.mark.parametrize('opset', [11, 17])
@pytest.mark.parametrize('form', ['unfold', 'mixture'])
@pytest.mark.parametrize('name', FORMS)
def test_layers_with_a_kernel_for_each_image_are_exported_in_both_forms(name, form, opset):
    import onnx
    import onnxruntime

    torch.manual_seed(0)
    make, convolutions = FORMS[name]
    model, file = nn.Sequential(moved(make()), nn.Tanh()).eval(), io.BytesIO()
    axes, settings = {0: 'batch', 2: 'height', 3: 'width'}, {'dynamo': False} if TORCH >= (2, 5) else {}
    settings |= {'input_names': ['x'], 'opset_version': opset, 'dynamic_axes': {'x': axes}}
    with exported_as(model, form):
        torch.onnx.export(model, (torch.randn(1, 3, 9, 11),), file, **settings)
    nodes = [node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node]
    assert nodes.count('Conv') == (convolutions if form == 'mixture' else 0)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=['CPUExecutionProvider'])
    for batch in (1, 2, 5):
        for size in ((9, 11), (16, 12)):
            x = torch.randn(batch, 3, *size)
            assert relative(torch.from_numpy(session.run(None, {'x': x.numpy()})[0]), model(x)) < 1e-4


@pytest.mark.parametrize('form', ['unfold', 'mixture'])
@pytest.mark.parametrize('operator', ['CondConv', 'FDConv'])
def test_networks_with_a_kernel_for_each_image_are_exported_in_both_forms(operator, form, tmp_path):
    """By the legacy exporter; the other one takes minutes for an FDConv."""
    pytest.importorskip('mmpretrain')
    import onnxruntime

    cfg = NETWORKS['classifier']()
    own = {'experts': 2, 'channel': True} if operator == 'CondConv' else {'kernel_num': 2, 'ksm_local': False}
    # FDConv leaves layers of at most 16 channels plain.
    for key in ('conv_cfg', 'where'):
        cfg.model.backbone.pop(key)
    # The first block: 3x3, 3x3, and 1x1 for the downsampling.
    cfg.model.backbone.update(
        conv_cfg=dict(type=f'mmkerv.{operator}', **own), base_channels=24, where=dict(names=r'layer1\.0')
    )
    cfg.model.head.in_channels = 192
    torch.manual_seed(0)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    layers = [moved(m) for m in model.modules() if isinstance(m, (CondConv2d, FDConv2d))]
    assert len(layers) == 3
    with torch.no_grad():
        assert export_onnx(model, tmp_path / 'net.onnx', (1, 3, *SIZE), exporter='legacy', export_form=form) < 1e-4
        assert all(layer.options.export_form == 'unfold' for layer in layers)
        session = onnxruntime.InferenceSession(tmp_path / 'net.onnx', providers=['CPUExecutionProvider'])
        for batch in (1, 5):
            x = torch.randn(batch, 3, 64, 96)
            (expected,) = RawOutputs(model)(x)
            found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
            assert relative(torch.from_numpy(found), expected) < 1e-4


def test_a_form_that_a_layer_does_not_have_is_refused(tmp_path):
    model = nn.Sequential(CondConv2d(3, 4, 3), FDConv2d(4, 4, 3)).eval()
    with pytest.raises(ArgumentError, match=r"^1 \(FDConv2d\): export_form='mixture' needs ksm_local=False"):
        export_onnx(model, tmp_path / 'net.onnx', (1, 3, 8, 8), export_form='mixture')
    assert [m.options.export_form for m in model] == ['unfold', 'unfold'] and not list(tmp_path.iterdir())
    with pytest.raises(ArgumentError, match='export_form'):
        export_onnx(model, tmp_path / 'net.onnx', (1, 3, 8, 8), export_form='fold')


def test_a_wrong_file_is_refused_and_removed(tmp_path, monkeypatch):
    model = unfolded('CoC')
    answers = iter([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    monkeypatch.setattr(model[3], 'forward', lambda x: torch.tanh(x) + next(answers))
    with pytest.raises(ExportCheckError, match=r'differs by .* Try the other exporter'):
        export_onnx(model, tmp_path / 'net.onnx', (1, 3, 16, 16), exporter='legacy')
    assert not list(tmp_path.iterdir())


def test_an_unknown_exporter_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'dynamo'"):
        export_onnx(nn.Identity(), tmp_path / 'net.onnx', (1, 3, 8, 8), exporter='dynam')


@pytest.mark.parametrize('name', LAYERS)
def test_a_traced_layer_computes_the_same_at_other_sizes(name, tmp_path):
    model = unfolded(name)
    torch.jit.save(torch.jit.trace(model, torch.randn(1, 3, 16, 20)), tmp_path / 'net.pt')
    traced, x = torch.jit.load(tmp_path / 'net.pt'), torch.randn(2, 3, 40, 33)
    assert relative(traced(x), model(x)) < 1e-5


@pytest.mark.parametrize('name', ONE_STAGE)
def test_a_traced_folded_network_computes_the_same_at_other_sizes(folded, name):
    network = RawOutputs(folded(name))
    traced, x = torch.jit.trace(network, torch.randn(1, 3, *SIZE)), torch.randn(2, 3, 96, 64)
    for actual, expected in zip(traced(x), network(x), strict=True):
        assert relative(actual, expected) < 1e-5


def small(operator: bool) -> nn.Module:
    torch.manual_seed(0)
    settings = {'kernel_size': 3, 'padding': 1, 'bias': False}
    conv = CoCConv2d(8, 8, super_init='kaiming', **settings) if operator else nn.Conv2d(8, 8, **settings)
    layers = [nn.Conv2d(3, 8, **settings), nn.BatchNorm2d(8), nn.ReLU(), conv, nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def kinds(model: nn.Module) -> list[str]:
    return [type(m).__name__ for m in model.modules()]


def by_fx(model: nn.Module, x: torch.Tensor) -> nn.Module:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    prepared = prepare_fx(model, get_default_qconfig_mapping('x86'), (x,))
    prepared(x)
    return convert_fx(prepared)


def by_hand(model: nn.Module, x: torch.Tensor) -> nn.Module:
    from torch.ao import quantization

    fused = quantization.fuse_modules(model, [['0', '1', '2'], ['3', '4', '5']])
    wrapped = nn.Sequential(quantization.QuantStub(), fused, quantization.DeQuantStub()).eval()
    wrapped.qconfig = quantization.get_default_qconfig('x86')
    prepared = quantization.prepare(wrapped)
    prepared(x)
    return quantization.convert(prepared)


def dynamic(model: nn.Module, x: torch.Tensor) -> nn.Module:
    from torch.ao.quantization import quantize_dynamic

    return quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize('quantise', [by_fx, by_hand, dynamic])
def test_a_folded_network_quantises_like_a_plain_one(quantise):
    if 'x86' not in torch.backends.quantized.supported_engines:
        pytest.skip('this torch has no x86 quantisation')
    torch.backends.quantized.engine = 'x86'
    x, network = torch.randn(8, 3, 16, 16), small(operator=True)
    expected = network(x)
    switch_to_deploy(network)
    plain = small(operator=False)
    plain.load_state_dict(network.state_dict())
    results = [quantise(copy.deepcopy(m), x) for m in (network, plain)]
    assert kinds(results[0]) == kinds(results[1]) != kinds(plain)
    assert torch.equal(results[0](x), results[1](x)), 'to the bit'
    # Each layer has eight bits for its range.
    assert relative(results[0](x), expected) < 0.05


def test_a_layer_that_is_not_folded_stays_as_it_is_in_a_network_quantised_by_fx():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3), layer('CoC'), nn.ReLU(), layer('Kerv gaussian', 8)).eval()
    x = torch.randn(2, 4, 9, 9)
    quantised = by_fx(model, x)
    assert type(quantised.get_submodule('1')) is type(model[1]) and type(quantised.get_submodule('3')) is type(model[3])
    assert relative(quantised(x), model(x)) < 0.1
