"""`mmkerv.convert` and the rule `where`. Needs torch and torchvision alone."""

import copy
import functools
import logging
import subprocess
import sys
from collections import Counter

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import prune

import mmkerv
from mmkerv.models import placement
from mmkerv.ops import CoCConv, CoCConv2d, FDConv, KervConv, KervConv2d, ReparamConv
from mmkerv.ops.core.base import Conv2d

COC = {'type': 'CoCConv'}
KERV = {'type': 'KervConv'}


@pytest.fixture
def lines(monkeypatch):
    found = []
    monkeypatch.setattr(placement, 'log', lambda message, level=logging.INFO: found.append(message))
    return found


def resnet(depth=18):
    torch.manual_seed(0)
    return getattr(torchvision.models, f'resnet{depth}')(num_classes=7).eval()


def replaced(model):
    return [name for name, m in model.named_modules() if isinstance(m, CoCConv2d)]


def test_converting_resnet50_keeps_outputs_and_logs_a_line(lines):
    model = resnet(50)
    x = torch.randn(1, 3, 64, 64)
    expected, keys, ids = model(x), set(model.state_dict()), {id(p) for p in model.parameters()}
    assert mmkerv.convert(model, COC) is model
    assert lines == ['mmkerv: 17 of 53 convolutions -> CoCConv (7x7: 1, 3x3: 16); kept 36 (1x1: 36)']
    assert (model(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert keys == {k for k in model.state_dict() if 'super_layers' not in k}
    assert ids <= {id(p) for p in model.parameters()}, 'the parameters are the same objects'
    report = mmkerv.ops.switch_to_deploy(model)
    assert len(report.replaced) == 17 and set(model.state_dict()) == keys
    assert (model(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ('where', 'names'),
    [
        ({'stem': True, 'stages': ()}, ['conv1']),
        ({'stem': False, 'stages': (4,)}, ['layer4.0.conv1', 'layer4.0.conv2', 'layer4.1.conv1', 'layer4.1.conv2']),
        ({'kernel_sizes': (7,)}, ['conv1']),
        ({'kernel_sizes': [(7, 7)]}, ['conv1']),
        ({'names': r'layer1\.0'}, ['layer1.0.conv1', 'layer1.0.conv2']),
        ({'names': ['^conv1$', r'layer2\..*conv2'], 'stem': True}, ['conv1', 'layer2.0.conv2', 'layer2.1.conv2']),
    ],
    ids=str,
)
def test_where_selects_convolutions(where, names):
    assert replaced(mmkerv.convert(resnet(), COC, where)) == names


def test_1x1_stays_plain_unless_replace_1x1_is_set():
    assert len(replaced(mmkerv.convert(resnet(), COC, {'kernel_sizes': 'all'}))) == 17
    assert len(replaced(mmkerv.convert(resnet(), {**COC, 'replace_1x1': True}, {'kernel_sizes': 'all'}))) == 20


@pytest.mark.parametrize(
    ('kind', 'where', 'sizes'),
    [
        ('KervConv', None, {7: 1, 3: 16, 1: 36}),
        ('CondConv', {'stem': False}, {3: 16, 1: 36}),
        ('CondConv', {'kernel_sizes': '>1'}, {7: 1, 3: 16}),
        # Of more than 16 channels; the downsampling is 1x1, which names can leave out.
        ('FDConv', None, {3: 16, 1: 36}),
        ('FDConv', {'stem': False, 'names': r'\.conv\d$'}, {3: 16, 1: 32}),
        (functools.partial(FDConv, kernel_num=4), {'stages': (1,), 'stem': False}, {3: 3, 1: 7}),
        (FDConv, {'kernel_sizes': '>1'}, {3: 16}),
        ('CoCConv', None, {7: 1, 3: 16}),
        ('ReparamConv', None, {7: 1, 3: 16}),
    ],
    ids=str,
)
def test_where_selects_the_sizes_that_the_operator_takes(kind, where, sizes, lines):
    with torch.device('meta'):
        model = torchvision.models.resnet50()
    mmkerv.convert(model, {'type': kind}, where)
    found = Counter(m.kernel_size[0] for m in model.modules() if isinstance(m, Conv2d))
    counts = ', '.join(f'{size}x{size}: {count}' for size, count in sizes.items())
    assert found == sizes
    assert f'{sum(sizes.values())} of 53 convolutions' in lines[0] and f'({counts}); kept' in lines[0]


def test_depthwise_convolutions_can_be_excluded():
    model = torchvision.models.mobilenet_v2().eval()
    assert len(replaced(mmkerv.convert(copy.deepcopy(model), COC))) == 18
    assert replaced(mmkerv.convert(model, COC, {'depthwise': False})) == ['features.0.0']


def test_identity_start_changes_no_prediction_of_a_depthwise_net():
    torch.manual_seed(0)
    model, x = torchvision.models.mobilenet_v2(num_classes=5).eval(), torch.randn(1, 3, 64, 64)
    expected = model(x)
    assert torch.allclose(mmkerv.convert(model, COC)(x), expected, atol=1e-5)


def kervolutions(model):
    return [name for name, m in model.named_modules() if isinstance(m, KervConv2d)]


@pytest.mark.parametrize('kind', ['KervConv', 'mmkerv.KervConv', KervConv, KervConv2d], ids=str)
def test_only_the_stem_becomes_a_kervolution(kind, lines):
    model = resnet()
    weight, ids, values = model.conv1.weight, [id(p) for p in model.parameters()], model.conv1.weight.detach().clone()
    mmkerv.convert(model, {'type': kind}, {'stages': ()})
    assert kervolutions(model) == ['conv1'] and '1 of 20 convolutions' in lines[0]
    assert model.conv1.weight is weight and torch.equal(weight, values)
    assert [id(p) for p in model.parameters()] == ids, 'an optimizer built before still holds the parameters'
    assert model.conv1.extra_repr().startswith('3, 64, kernel_size=(7, 7), stride=(2, 2), padding=(3, 3), bias=False')


def test_linear_kervolution_changes_no_prediction():
    model, x = resnet(), torch.randn(1, 3, 64, 64)
    expected = model(x)
    mmkerv.convert(model, {**KERV, 'kernel': 'linear'})
    assert len(kervolutions(model)) == 20, 'a 1x1 kervolution is legal'
    assert torch.equal(model(x), expected)


def test_an_optimizer_built_before_trains_a_kervolution():
    model, x = resnet(), torch.randn(2, 3, 64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mmkerv.convert(model, {**KERV, 'kernel': 'gaussian'}, {'stages': ()})
    before = model.conv1.weight.detach().clone()
    model(x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.conv1.weight, before)


@pytest.mark.parametrize('per_channel', [False, True])
def test_learned_hyperparameters_start_at_their_values(per_channel):
    model = resnet().double()
    where, cfg = {'stages': (1,)}, {**KERV, 'learnable': True, 'balance': 0.3, 'per_channel': per_channel}
    mmkerv.convert(model, cfg, where)
    assert len(kervolutions(model)) == 5
    for name in kervolutions(model):
        balance = model.get_submodule(name).balance
        assert isinstance(balance, nn.Parameter) and balance.dtype == torch.float64 and balance.requires_grad
        assert balance.tolist() == pytest.approx([0.3] * (64 if per_channel else 1))
    mmkerv.convert(model, {**KERV, 'kernel': 'gaussian', 'learnable': True}, {'stages': (2,), 'stem': False})
    assert model.layer2[0].conv1.gamma.item() == pytest.approx(1 / (64 * 9))


@pytest.mark.parametrize('kind', ['CoCConv', 'mmkerv.CoCConv', CoCConv, CoCConv2d], ids=str)
def test_the_type_may_be_a_name_or_a_class(kind):
    assert len(replaced(mmkerv.convert(resnet(), {'type': kind}))) == 17


def test_the_type_may_be_a_partial():
    model = mmkerv.convert(resnet(), {'type': functools.partial(CoCConv, association=3)})
    assert model.conv1.options.association == 3
    with pytest.raises(TypeError, match='type must be a name, a class or a function, got 3'):
        mmkerv.convert(resnet(), {'type': 3})


def test_options_reach_the_operator():
    model = mmkerv.convert(resnet(), {'type': 'CoCConv', 'association': 3, 'super_init': 'kaiming'})
    assert model.conv1.options.association == 3
    assert not torch.equal(model.conv1.kernel(), model.conv1.weight)
    first, second = (model.layer1[i].conv1.super_layers[0].weight for i in (0, 1))
    assert not torch.equal(first, second), 'every operator draws its own super kernels'


@pytest.mark.parametrize(('kernel_sizes', 'count'), [('>1', 17), ('all', 20)])
def test_a_registered_convolution_replaces_too(kernel_sizes, count, lines):
    conv_ws = pytest.importorskip('mmcv.cnn.bricks.conv_ws')
    model = resnet()
    weights, x = {k: v.clone() for k, v in model.state_dict().items()}, torch.randn(1, 3, 32, 32)
    mmkerv.convert(model, {'type': 'ConvWS', 'eps': 1e-3}, {'kernel_sizes': kernel_sizes})
    standardised = [m for m in model.modules() if isinstance(m, conv_ws.ConvWS2d)]
    assert len(standardised) == count and f'{count} of 20 convolutions -> ConvWS' in lines[0]
    assert 'newly initialised' not in lines[0]
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    expected = conv_ws.conv_ws_2d(x, model.conv1.weight, None, 2, 3, eps=1e-3)
    torch.testing.assert_close(model.conv1(x), expected)
    assert mmkerv.ops.switch_to_deploy(model).replaced == [] and type(model.conv1) is conv_ws.ConvWS2d
    assert torch.equal(model.conv1(x), expected), 'folding does not change it'


def test_a_convolution_of_the_current_scope_replaces_too():
    registry = pytest.importorskip('mmengine.registry')
    scope = registry.Registry('model', scope='mmkerv_test', parent=registry.MODELS)
    scope.register_module('Plain2d', module=type('Plain2d', (nn.Conv2d,), {}))
    scope.register_module('Deconv', module=nn.ConvTranspose2d)
    with pytest.raises(ValueError, match='not an operator'):
        mmkerv.convert(resnet(), {'type': 'Plain2d'})
    with registry.DefaultScope.overwrite_default_scope('mmkerv_test'):
        assert type(mmkerv.convert(resnet(), {'type': 'Plain2d'}).conv1).__name__ == 'Plain2d'
        with pytest.raises(
            ValueError, match=r'registered .* as ConvTranspose2d, which is no nn\.Conv2d.*pass the class'
        ):
            mmkerv.convert(resnet(), {'type': 'Deconv'})


def test_a_compiled_convolution_of_mmcv_is_not_called_unknown():
    pytest.importorskip('mmcv.ops')
    with pytest.raises(ValueError, match=r"'DCN' is not an operator .* as DeformConv2dPack, which is no nn\.Conv2d"):
        mmkerv.convert(resnet(), {'type': 'DCN'})


def test_a_convolution_that_cannot_take_a_layer_is_named_with_its_shape():
    pytest.importorskip('mmcv')
    model = nn.Sequential(nn.Conv2d(4, 8, (3, 1), groups=2, padding_mode='reflect'))
    with pytest.raises(TypeError, match=r'0 \(3x1, 4 -> 8 channels, groups=2\): .*padding_mode'):
        mmkerv.convert(model, {'type': 'ConvWS'})
    assert type(model[0]) is nn.Conv2d
    with pytest.raises(TypeError, match=r'0 \(3x1, 4 -> 8 channels, groups=2\): .*epsilon'):
        mmkerv.convert(nn.Sequential(nn.Conv2d(4, 8, (3, 1), groups=2)), {'type': 'ConvWS', 'epsilon': 1})


@pytest.mark.parametrize('kind', ['PConv', 'RecConv', 'MixConv', 'CKConv'])
def test_the_advice_to_leave_a_layer_out_is_given_once(kind):
    options = {'method': 'fft'} if kind == 'CKConv' else {}
    with pytest.raises(ValueError, match=r'0 \(3x3, 3 -> 8 channels, groups=1\): ') as error:
        mmkerv.convert(nn.Sequential(nn.Conv2d(3, 8, 3, 2)), {'type': kind, **options})
    assert str(error.value).count('where') == 1


def test_padding_mode_reaches_the_operator():
    model, x = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode='reflect')), torch.randn(1, 4, 5, 5)
    expected = model(x)
    torch.testing.assert_close(mmkerv.convert(model, COC)(x), expected)


def test_folded_conv_may_leave_every_convolution_plain(lines):
    """A CKConv with replace_1x1 has a FoldedConv in its deploy config: a plain convolution of the same shape."""
    model = resnet()
    mmkerv.convert(model, {'type': 'FoldedConv', 'replace_1x1': True})
    assert lines == ['mmkerv: 0 of 20 convolutions -> FoldedConv; kept 20 (7x7: 1, 3x3: 16, 1x1: 3)']
    with pytest.raises(ValueError, match='no convolution was replaced'):
        mmkerv.convert(model, {'type': 'FoldedConv'}, {'names': 'head'})


def test_folded_norms_bring_a_bias_where_the_host_has_none():
    """The deploy config of a ReparamConv with norms, placed by where: the folded weights must fit."""
    trained = mmkerv.convert(resnet(), {'type': 'ReparamConv'}, {'stages': (2,)})
    mmkerv.ops.switch_to_deploy(trained)
    plain = mmkerv.convert(resnet(), ReparamConv.deploy_cfg({'type': 'ReparamConv'}), {'stages': (2,)})
    plain.load_state_dict(trained.state_dict())
    assert plain.layer2[0].conv1.bias is not None and plain.layer3[0].conv1.bias is None


def test_the_error_lists_what_the_operator_leaves_plain():
    with pytest.raises(ValueError, match=r'CoCConv.* selects only what it leaves plain \(1x1: 3\).*replace_1x1=True'):
        mmkerv.convert(resnet(), COC, {'kernel_sizes': (1,)})


@pytest.mark.parametrize('conv_cfg', [COC, KERV, {'type': 'CKConv'}], ids=str)
def test_a_network_on_the_meta_device_stays_there(conv_cfg):
    with torch.device('meta'):
        model = resnet()
    assert all(p.is_meta for p in mmkerv.convert(model, conv_cfg).parameters())


def test_converting_to_an_identity_start_draws_no_random_numbers():
    torch.manual_seed(0)
    plain = resnet()
    expected = torch.rand(1)
    torch.manual_seed(0)
    mmkerv.convert(resnet(), COC)
    assert torch.equal(torch.rand(1), expected)
    assert plain is not None


def test_other_classes_of_convolution_are_kept_and_listed(lines):
    class Special(nn.Conv2d):
        pass

    hooked, watched, tied = (nn.Conv2d(4, 4, 3) for _ in range(3))
    hooked.register_forward_hook(lambda *_: None)
    watched.register_full_backward_pre_hook(lambda *_: None)
    normed = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3))
    model = nn.Sequential(Special(4, 4, 3), hooked, normed, nn.Conv1d(4, 4, 3), tied, watched)
    mmkerv.convert(model, COC)
    assert replaced(model) == ['4']
    assert '1 of 5 convolutions' in lines[0] and '3x3 Special: 1' in lines[0]


def test_shared_modules_and_parameters_stay_shared():
    conv = nn.Conv2d(4, 4, 3, padding=1)
    tied = nn.Conv2d(4, 4, 3, padding=1)
    tied.weight = conv.weight
    model = nn.Sequential(conv, nn.Sequential(conv), tied)
    mmkerv.convert(model, COC)
    assert model[0] is model[1][0] and model[2] is not model[0]
    assert model[2].weight is model[0].weight


def test_dtype_mode_and_requires_grad_are_kept():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)).double().eval()
    model[0].requires_grad_(False)
    mmkerv.convert(model, COC)
    assert all(p.dtype == torch.float64 for p in model.parameters()) and not model[0].training
    assert not any(p.requires_grad for p in model[0].parameters())
    assert all(p.requires_grad for p in model[1].parameters())


@pytest.mark.parametrize(
    ('conv_cfg', 'where', 'message'),
    [
        (COC, {'kernel_sizes': (11,)}, 'no convolution was replaced'),
        (COC, {'names': 'head'}, 'no convolution was replaced'),
        (COC, {'names': '('}, 'regular expressions'),
        (COC, {'stage': (1,)}, "did you mean 'stages'"),
        (COC, {'stages': 3}, 'sequence'),
        (COC, {'stages': (0,)}, 'where.stages'),
        (COC, {'stem': 1}, 'where.stem'),
        (COC, {'kernel_sizes': '>3'}, 'kernel_sizes'),
        (COC, 'stem', 'where must be a dict'),
        ({'type': 'CocConv'}, None, "'CocConv' is not an operator of mmkerv and not registered .* CoCConv, .*KervConv"),
        ({'type': 'continuous_kernel'}, None, 'not an operator'),
        ({'type': 'MaxPool2d'}, None, 'not an operator'),
        ({'association': 2}, None, "with a 'type'"),
        ({'type': 'CoCConv', 'association': 0}, None, 'conv1 .7x7, 3 -> 64 channels, groups=1.: association'),
        ({'type': 'CoCConv', 'asociation': 0}, None, "did you mean 'association'"),
        ({**KERV, 'degree': 0}, None, 'conv1 .7x7, 3 -> 64 channels, groups=1.: degree must be >= 1'),
        ({**KERV, 'kernel': 'gausian'}, None, "did you mean 'gaussian'"),
        ({**KERV, 'kernel': 'l2', 'learnable': True}, None, 'learnable=True needs'),
    ],
    ids=str,
)
def test_bad_input_is_refused_and_nothing_is_replaced(conv_cfg, where, message):
    model = resnet()
    with pytest.raises((ValueError, TypeError), match=message):
        mmkerv.convert(model, conv_cfg, where)
    assert replaced(model) == kervolutions(model) == []


EVEN = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 2), nn.Conv2d(4, 4, 4, stride=4)]


def test_kernels_of_even_size_stay_plain_and_are_counted(lines):
    model = nn.Sequential(*copy.deepcopy(EVEN))
    assert replaced(mmkerv.convert(model, COC)) == ['0']
    assert lines == ['mmkerv: 1 of 3 convolutions -> CoCConv (3x3: 1); kept 2 (4x4: 1, 2x2: 1); 2 even: 2x2, 4x4']
    model = nn.Sequential(*copy.deepcopy(EVEN))
    mmkerv.convert(model, {'type': 'CKConv', 'kernel_extent': 7})
    assert [type(m).__name__ for m in model] == ['CKConv2d', 'Conv2d', 'Conv2d']
    assert len(kervolutions(mmkerv.convert(nn.Sequential(*copy.deepcopy(EVEN)), KERV))) == 3


@pytest.mark.parametrize(
    ('where', 'message'),
    [
        ({'kernel_sizes': (3, 2)}, r"1 \(2x2, 4 -> 4 channels, groups=1\): kernel_size must be odd.*kernel_sizes='>1'"),
        ({'names': ('0', '1')}, r'1 \(2x2, 4 -> 4 channels, groups=1\): kernel_size must be odd'),
        ({'names': '1|2'}, 'kernel_size must be odd'),
    ],
    ids=str,
)
def test_an_even_kernel_that_where_asks_for_is_refused(where, message):
    model = nn.Sequential(*copy.deepcopy(EVEN))
    with pytest.raises(ValueError, match=message):
        mmkerv.convert(model, COC, where)
    assert replaced(model) == []


def test_a_network_of_even_kernels_is_refused():
    with pytest.raises(ValueError, match=r'selects only kernels of even size \(2x2: 1\)'):
        mmkerv.convert(nn.Sequential(copy.deepcopy(EVEN[1])), COC)


def test_a_wrong_option_is_refused_for_an_even_kernel_too():
    with pytest.raises(ValueError, match='association'):
        mmkerv.convert(nn.Sequential(copy.deepcopy(EVEN[1])), {**COC, 'association': 0})


def static_same(_):
    return pytest.importorskip('timm.layers').Conv2dSame(4, 4, 3)


def pruned(conv):
    return prune.l1_unstructured(conv, 'weight', 0.5)


@pytest.mark.parametrize(
    ('change', 'found'),
    [
        (static_same, '3x3 Conv2dSame: 1'),
        (pruned, '3x3 Conv2d with a computed weight: 1'),
        (nn.utils.parametrizations.spectral_norm, '3x3 ParametrizedConv2d: 1'),
    ],
)
def test_the_class_of_what_was_selected_is_named_if_it_is_why_nothing_is_replaced(change, found):
    model = nn.Sequential(change(nn.Conv2d(4, 4, 3)), nn.Conv2d(4, 4, 1))
    with pytest.raises(ValueError, match=f'selects only classes that are not replaced .{found}.: only exact nn.Conv2d'):
        mmkerv.convert(model, COC)


def test_where_stages_needs_a_model_with_stages():
    with pytest.raises(ValueError, match=r'where\.names'):
        mmkerv.convert(nn.Sequential(nn.Conv2d(3, 4, 3)), COC, {'stages': (1,)})


FOLDER = '''
import sys
from importlib.machinery import ModuleSpec

class Folder:
    """Finds mmengine as a folder without Python files, and nothing in it."""

    def find_spec(self, name, path=None, target=None):
        if name == 'mmengine':
            return ModuleSpec(name, None, is_package=True)
        if name.startswith('mmengine.'):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Folder())
from torch import nn
from mmkerv import convert
from mmkerv.ops import CoCConv2d, switch_to_deploy

model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
convert(model, dict(type='CoCConv'))
assert isinstance(model[0], CoCConv2d) and switch_to_deploy(model).replaced == ['0']
'''


def test_a_folder_called_mmengine_is_not_mmengine():
    done = subprocess.run([sys.executable, '-c', FOLDER], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
