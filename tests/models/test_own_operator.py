"""An operator that the user registered, in networks of the three libraries: placement, rules, pictures, folding."""

import pytest
import torch
from torch import nn

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

import mmkerv
from mmkerv.deploy import fold
from mmkerv.deploy.config import deploy_config
from mmkerv.engine.config.check import check_operators
from mmkerv.engine.config.operator_spec import operator_names, parse_operator
from mmkerv.engine.config.place_operator import place_operator
from mmkerv.errors import ConfigError
from mmkerv.models.inventory import inventory
from mmkerv.models.placed_operators import placed_operators, placed_operators_of_text
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.core.precision import wide_type
from tests.ops.contract import relative

NETS = {
    'mmdet': {'type': 'ResNet', 'depth': 18, 'base_channels': 8, 'stem_channels': 8},
    'mmseg': {'type': 'ResNetV1c', 'depth': 18, 'base_channels': 8, 'stem_channels': 8, 'norm_cfg': {'type': 'BN'}},
    'mmpretrain': {'type': 'ResNet', 'depth': 18, 'base_channels': 8, 'stem_channels': 8},
}


class GainConv2d(GeneratedKernel, Conv2d):
    """Gain convolution: each filter is multiplied by a gain."""

    no_decay = ('gain',)
    lr_mult = {'gain': 3.0}

    def make_parameters(self, factory):
        self.gain = nn.Parameter(torch.empty(self.out_channels, 1, 1, 1, **factory))

    def reset_operator_parameters(self):
        nn.init.ones_(self.gain)

    @property
    def starts_as_identity(self):
        return True

    def _kernel(self):
        dtype = wide_type(self.weight.dtype)
        return self.gain.to(dtype) * self.weight.to(dtype)


@pytest.fixture(autouse=True)
def registered():
    mmkerv.register_operator()(GainConv2d)


def built(library, cfg):
    init_default_scope(library)
    torch.manual_seed(0)
    net = MODELS.build(cfg)
    net.init_weights()
    net.eval()
    return net


@pytest.mark.parametrize('library', NETS)
def test_placement_in_each_library_starts_plain_and_folds(library):
    plain = built(library, NETS[library])
    converted = {'type': 'mmkerv.Converted', 'backbone': NETS[library], 'conv_cfg': {'type': 'GainConv'}}
    net, x = built(library, converted), torch.randn(1, 3, 64, 64)
    found = inventory(net)
    assert list(found.by_operator()) == ['GainConv'] and {kept.reason for kept in found.kept.values()} == {'1x1'}
    assert found.starts() == {'GainConv': 'as the plain convolution'}
    with torch.no_grad():
        assert relative(net(x)[-1], plain(x)[-1]) < 1e-5
        for operator in found.operators.values():
            operator.gain.uniform_(0.5, 1.5)
        changed = net(x)[-1]
        assert relative(changed, plain(x)[-1]) > 1e-2
        report = mmkerv.ops.switch_to_deploy(net)
        assert report.replaced == list(found.operators) and not report.kept
        assert relative(net(x)[-1], changed) < 1e-5
        plain.load_state_dict(net.state_dict())
        assert relative(plain(x)[-1], changed) < 1e-5


@pytest.mark.parametrize('kind', ['GainConv', 'mmkerv.GainConv', f'{__name__}.GainConv2d', GainConv2d], ids=str)
def test_conv_cfg_in_a_config_of_upstream(kind):
    model = {'backbone': {**NETS['mmdet'], 'conv_cfg': {'type': kind}}}
    check_operators(model, 'model', 'mmdet')
    assert placed_operators(model)['model.backbone.conv_cfg'].operator == 'GainConv'
    cfg = Config({'model': model})
    assert deploy_config(cfg).model.backbone.conv_cfg is None
    net = built('mmdet', cfg.model.backbone)
    assert list(inventory(net).by_operator()) == ['GainConv']
    if isinstance(kind, str):
        assert placed_operators_of_text(cfg.pretty_text) == placed_operators(model)


def test_a_bad_argument_or_name_in_a_config_is_refused():
    with pytest.raises(ConfigError, match=r"model\.conv_cfg: GainConv has no argument 'gian'"):
        check_operators({'conv_cfg': {'type': 'GainConv', 'gian': 1}}, 'model', 'mmdet')
    with pytest.raises(ConfigError, match=r"'GaiConv' is neither .* did you mean 'mmkerv.GainConv'\?"):
        check_operators({'conv_cfg': {'type': 'GaiConv'}}, 'model', 'mmdet')


def test_the_command_line_knows_its_short_name():
    assert operator_names()['gain'] == 'GainConv'
    cfg = place_operator(Config({'model': NETS['mmdet']}), parse_operator('gain', ['stages=2,3']))
    assert cfg.model.conv_cfg.type == 'mmkerv.GainConv'
    mmkerv.unregister_operator('GainConv')
    with pytest.raises(ConfigError, match=r"no operator is called 'gain'; .*custom_imports of the config names its"):
        parse_operator('gain')


def test_the_optimizer_has_its_rules():
    net = mmkerv.convert(nn.Sequential(nn.Conv2d(3, 8, 3)), {'type': 'GainConv'})
    sgd = {'type': 'SGD', 'lr': 1.0, 'weight_decay': 0.1}
    wrapper = build_optim_wrapper(
        net, {'type': 'OptimWrapper', 'optimizer': sgd, 'constructor': 'mmkerv.OperatorRulesConstructor'}
    )
    groups = {id(group['params'][0]): group for group in wrapper.optimizer.param_groups if len(group['params']) == 1}
    gain = groups[id(net[0].gain)]
    assert (gain['weight_decay'], gain['lr']) == (0.0, 3.0)
    assert all(g['weight_decay'] == 0.1 and g['lr'] == 1.0 for g in wrapper.optimizer.param_groups if g is not gain)


def test_its_kernels_are_drawn():
    pytest.importorskip('matplotlib')
    from mmkerv.visualization import kernel_figure
    from mmkerv.visualization.kernel_figures import kernel_arrays

    layer = GainConv2d(3, 8, 3)
    nn.init.constant_(layer.gain, 2.0)
    assert torch.allclose(torch.as_tensor(kernel_arrays(layer)['kernel']), 2 * layer.weight)
    assert kernel_figure(layer, 'conv1').get_suptitle() == 'conv1: GainConv2d 3 → 8, 3×3'


@pytest.mark.parametrize(
    ('imports', 'kept', 'told'),
    [
        (['mmkerv', __name__], (), True),
        (__name__, (), True),
        (['mmkerv'], (), False),
        ([__name__], ('GainConv',), False),
    ],
    ids=['folded', 'text', 'other module', 'kept'],
)
def test_a_folded_config_that_still_imports_the_operator_is_told(monkeypatch, imports, kept, told):
    lines = []
    monkeypatch.setattr(fold, 'log', lines.append)
    fold._tell_of_own_modules(Config({'custom_imports': {'imports': imports}}), set(kept))
    assert bool(lines) == told and (not told or f'folded config keeps {__name__}, whose operators' in lines[0])
