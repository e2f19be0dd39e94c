"""Decomposing a trained network: what is replaced, what stays plain, and the files that are written."""

import copy
import functools
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmkerv.cli.model_converters import decompose as cli
from mmkerv.deploy.decompose import Layer, decompose_checkpoint, decompose_layers, decomposed_config, median_seconds
from mmkerv.deploy.fold import fold_checkpoint
from mmkerv.deploy.model_outputs import largest_difference, raw_outputs, sample_inputs
from mmkerv.engine import safe_load
from mmkerv.errors import CheckpointMismatchError, ConfigError
from mmkerv.models.placement import Where
from mmkerv.ops import LowRankConv2d
from tests.engine.small_networks import SIZE, associated, backbone, neck, retinanet, segmentor

LOW_RANK = {'type': 'mmkerv.LowRankConv', 'rank': 0.5}


def faster(layers, inputs):
    """A timer for which the chain takes half the time."""
    return [2.0, 1.0]


def plain_retinanet() -> Config:
    cfg = retinanet(backbone=backbone(), neck=neck(start_level=1, add_extra_convs='on_input'))
    del cfg.model.bbox_head['conv_cfg']
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='absent.pth')
    return cfg


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Config, network with statistics as after a training, and its checkpoint."""
    pytest.importorskip('mmdet')
    cfg = plain_retinanet()
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg.model)).eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_var, 0.5, 2)
    file = tmp_path_factory.mktemp('trained') / 'epoch_3.pth'
    torch.save({'meta': {'epoch': 3, 'cfg': 'the old one'}, 'state_dict': model.state_dict()}, file)
    return cfg, model, file


def outputs(model: nn.Module) -> list[torch.Tensor]:
    inputs, samples = next(sample_inputs(model, SIZE))
    return raw_outputs(model.eval(), inputs, samples)


def built(config, checkpoint) -> nn.Module:
    """The network of the files, as the libraries build and load it."""
    model = MODELS.build(Config.fromfile(config).model)
    model.load_state_dict(safe_load(checkpoint)['state_dict'])
    return model


@pytest.mark.parametrize(
    ('decomposition', 'names', 'number'),
    [('tucker2', ['layer[34]', 'neck', 'cls_convs'], 18), ('cp4', ['layer2.0', 'lateral_convs.0', 'cls_convs'], 6)],
)
def test_the_written_files_give_the_decomposed_network(trained, decomposition, names, number, tmp_path, monkeypatch):
    cfg, model, file = trained
    monkeypatch.chdir(tmp_path)
    out, where = Path('low_rank.pth'), {'names': names}
    rows = decompose_checkpoint(
        cfg, file, out, rate=2, decomposition=decomposition, where=where, shape=SIZE, timer=faster
    )
    done = [row for row in rows if not row.kept]
    assert {row.name.partition('.')[0] for row in done} == {'backbone', 'neck', 'bbox_head'}
    # A convolution that all levels share is one layer, and counts for each level.
    assert sum('cls_convs.0' in row.name for row in done) == 1
    rebuilt = built(out.with_suffix('.py'), out)
    found = {name: m for name, m in rebuilt.named_modules() if isinstance(m, LowRankConv2d)}
    assert list(found) == [row.name for row in done] and len(done) >= number
    for row in done:
        weight, kernel = model.get_submodule(row.name).weight, found[row.name].kernel()
        assert float((kernel - weight).norm() / weight.norm()) == pytest.approx(row.error, abs=1e-5)
        assert 2 * row.weights[1] <= row.weights[0] == weight.numel()
    # The outputs are those of the plain network with the composed kernels in place of its own.
    composed = copy.deepcopy(model)
    with torch.no_grad():
        for name, operator in found.items():
            composed.get_submodule(name).weight.copy_(operator.kernel())
    assert largest_difference(outputs(composed), outputs(rebuilt)) < 1e-4
    assert largest_difference(outputs(model), outputs(rebuilt)) > 1e-3
    # From another working directory, and moved together.
    (tmp_path / 'moved').mkdir()
    for file in (out, out.with_suffix('.py')):
        (tmp_path / file).rename(tmp_path / 'moved' / file)
    out = tmp_path / 'moved' / out
    monkeypatch.chdir('/')
    written = Config.fromfile(out.with_suffix('.py'))
    assert written.load_from == str(out) and written.model.backbone.model.init_cfg is None
    assert written.custom_imports.imports == ['mmkerv'] and written.model.backbone.type == 'mmkerv.Converted'
    assert safe_load(out)['meta']['epoch'] == 3


def test_ranks_above_the_full_one_reproduce_the_outputs(trained):
    _, model, _ = trained
    new = copy.deepcopy(model)
    rule = Where.of({'kernel_sizes': 'all'})
    rows = decompose_layers(new, {**LOW_RANK, 'rank': 10**6}, rule, SIZE, timer=faster)
    assert {row.kept for row in rows} == {'no fewer weights'} and len(rows) > 30
    assert largest_difference(outputs(model), outputs(new)) == 0
    for row in rows:
        conv = model.get_submodule(row.name)
        operator = LowRankConv2d(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
            bias=conv.bias is not None, rank=10**6,
        )  # fmt: skip
        assert operator.decompose(conv.weight) < 1e-10


class Partly(nn.Module):
    """Four convolutions in a row, and one that no image reaches."""

    def __init__(self):
        super().__init__()
        three = [nn.Conv2d(16, 16, 3, padding=1, groups=groups) for groups in (1, 1, 16)]
        self.row = nn.Sequential(*three, nn.Conv2d(16, 1, 1))
        self.unused = nn.Conv2d(4, 4, 3)

    def forward(self, x):
        return self.row(x)


def test_layers_that_gain_nothing_stay_plain_and_are_named():
    torch.manual_seed(0)
    model, calls = Partly().eval(), []

    def timer(layers, inputs):
        assert [tuple(x.shape) for x in inputs] == [(1, 16, 9, 8)]
        calls.append(layers)
        return [1.0, 1.0] if len(calls) == 2 else [2.0, 1.0]

    before = copy.deepcopy(model)
    rows = decompose_layers(model, LOW_RANK, Where.of({'kernel_sizes': 'all'}), (9, 8), None, timer)
    assert {row.name: row.kept for row in rows} == {
        'row.0': '',
        'row.1': 'slower',
        'row.2': 'depthwise',
        'row.3': 'no fewer weights',
        'unused': 'not computed for an image',
    }
    assert rows[0].macs[0] == 16 * 16 * 9 * 72 and rows[0].macs[1] == rows[0].weights[1] * 72
    assert [type(m).__name__ for m in model.row] == ['LowRankConv2d', 'Conv2d', 'Conv2d', 'Conv2d']
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(before.row[1:], model.row[1:]))


class Peculiar(nn.Module):
    """Convolutions of one channel, with a hook, of another class, and one that is called by keyword."""

    def __init__(self):
        super().__init__()
        self.grey, self.hooked = nn.Conv2d(1, 16, 5), nn.Conv2d(16, 16, 3)
        self.named, self.other = nn.Conv2d(16, 16, 3), type('Other', (nn.Conv2d,), {})(16, 16, 3)
        self.hooked.register_forward_pre_hook(lambda module, args: None)

    def forward(self, x):
        return self.other(self.named(input=self.hooked(self.grey(x[:, :1]))))


def test_the_reasons_are_those_of_the_layers():
    model = Peculiar().eval()
    rows = decompose_layers(model, LOW_RANK, Where.of({'kernel_sizes': 'all'}), (16, 16), timer=faster)
    assert {row.name: row.kept for row in rows} == {
        'grey': 'one input channel',
        'hooked': 'class Conv2d with hooks',
        'named': '',
        'other': 'class Other',
    }
    assert type(model.named) is LowRankConv2d and model(torch.ones(1, 3, 16, 16)).shape == (1, 16, 6, 6)


def test_layers_that_share_a_weight_stay_plain():
    model = nn.Sequential(*(nn.Conv2d(16, 16, 3) for _ in range(4)))
    model[1].weight, model[3].bias = model[0].weight, model[2].bias
    # One layer that is used twice shares nothing with another.
    model.append(model[2]).eval()
    rows = decompose_layers(model, LOW_RANK, Where(), (16, 16), timer=faster)
    assert [row.kept for row in rows] == ['shares its weight with 1', 'shares its weight with 0', '', '']
    assert model[0].weight is model[1].weight and model[2].bias is model[3].bias and model[4] is model[2]
    assert [type(m).__name__ for m in model] == ['Conv2d'] * 2 + ['LowRankConv2d'] * 3


def test_an_error_above_the_limit_keeps_a_layer_plain():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3)).eval()
    with torch.no_grad():
        model[0].weight.copy_(LowRankConv2d(16, 16, 3, rank=2).kernel())
    rows = decompose_layers(model, LOW_RANK, Where(), (9, 9), 0.1, faster)
    assert [row.kept for row in rows] == ['', 'error above 0.1'] and rows[0].error < 1e-5 < rows[1].error
    assert [type(m).__name__ for m in model] == ['LowRankConv2d', 'Conv2d']


def test_the_timer_measures_each_layer_on_all_inputs():
    calls = []

    class Layer(nn.Module):
        def forward(self, x):
            calls.append((self, x.shape))

    layers = [Layer(), Layer()]
    times = median_seconds(layers, [torch.ones(1), torch.ones(2)])
    assert len(times) == 2 and min(times) > 0
    assert calls[:4] == [(layer, torch.Size([n])) for layer in layers for n in (1, 2)]


def test_a_head_in_a_list_and_a_converted_model_are_found():
    model = dict(type='EncoderDecoder', backbone=dict(type='ResNet'), auxiliary_head=[dict(type='FCNHead')] * 2)
    new = decomposed_config(Config(dict(model=model)), LOW_RANK, ['auxiliary_head.1.convs.0.conv'], 'a.pth').model
    assert new.auxiliary_head[0] == dict(type='FCNHead') and new.backbone == dict(type='ResNet')
    assert new.auxiliary_head[1].model == dict(type='FCNHead')
    assert new.auxiliary_head[1].where['names'] == [r'^convs\.0\.conv$']
    again = decomposed_config(Config(dict(model=new)), LOW_RANK, ['backbone.conv1', 'head'], 'a.pth').model
    assert again.type == 'mmkerv.Converted' and again.model.auxiliary_head == new.auxiliary_head
    assert again.where['names'] == [r'^backbone\.conv1$', '^head$']


def test_the_config_has_no_other_pretrained_weights():
    pretrained, kaiming = dict(type='Pretrained', checkpoint='a.pth'), dict(type='Kaiming', layer='Conv2d')
    model = dict(
        type='EncoderDecoder',
        pretrained='a.pth',
        backbone=dict(type='mmpretrain.TIMMBackbone', pretrained=True, checkpoint_path='a.pth', init_cfg=[pretrained]),
        neck=dict(type='FPN', init_cfg=[kaiming, dict(pretrained, type='mmengine.model.PretrainedInit')]),
        decode_head=dict(type='FCNHead', init_cfg=pretrained, channels=[]),
        auxiliary_head=[dict(type='FCNHead', init_cfg=(kaiming,), pretrained=False)],
    )
    new = decomposed_config(Config(dict(model=model)), LOW_RANK, ['backbone.conv1'], 'low_rank.pth').model
    assert new.pretrained is None and new.decode_head == dict(type='FCNHead', init_cfg=None, channels=[])
    assert new.backbone.model == dict(
        type='mmpretrain.TIMMBackbone', pretrained=False, checkpoint_path='', init_cfg=None
    )
    assert new.neck.init_cfg == [kaiming]
    assert new.auxiliary_head == model['auxiliary_head']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'rate': 1.0}, '--rate must be a finite number > 1, got 1'),
        ({'rate': float('nan')}, '--rate must be a finite number > 1, got nan'),
        ({'rate': float('inf')}, '--rate must be a finite number > 1, got inf'),
        ({'rate': 2.0, 'error': 0.0}, r'--error must be in \(0, 1\], got 0'),
        ({'rate': 2.0, 'timer': lambda layers, inputs: [1.0, 1.0]}, r'all \d+ convolutions stay plain \(.*slower'),
        ({'rate': 2.0, 'where': {'names': ['nothing']}}, r'all 0 convolutions stay plain \(where selects none\)'),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(trained, arguments, message, tmp_path):
    cfg, _, file = trained
    settings = {'shape': SIZE, 'timer': faster, 'where': {'names': ['layer1']}, **arguments}
    with pytest.raises(ConfigError, match=message):
        decompose_checkpoint(cfg, file, tmp_path / 'out.pth', **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('broken', [['_forward'], ['_forward', 'predict']], ids=['raw outputs', 'predictions too'])
def test_a_segmentor_without_a_tensor_mode_is_decomposed(broken, tmp_path, monkeypatch):
    pytest.importorskip('mmseg')
    cfg = segmentor()
    del cfg.model.backbone['conv_cfg'], cfg.model.decode_head['conv_cfg'], cfg.model.auxiliary_head[0]['conv_cfg']
    torch.save({'state_dict': associated(cfg, 0).state_dict()}, tmp_path / 'a.pth')

    def refuse(*args, **kwargs):
        raise NotImplementedError

    for name in broken:
        monkeypatch.setattr(MODELS.get('mmseg.EncoderDecoder'), name, refuse)
    names = {'names': ['layer2', 'decode_head.convs']}
    rows = decompose_checkpoint(
        cfg, tmp_path / 'a.pth', tmp_path / 'b.pth', rate=2, where=names, shape=SIZE, timer=faster
    )
    assert (tmp_path / 'b.pth').exists() and not [row for row in rows if row.name.startswith('backbone') and row.kept]
    head = [row.kept for row in rows if row.name.startswith('decode_head.convs')]
    assert head == (['not computed for an image'] if 'predict' in broken else [''])


def test_a_checkpoint_of_another_network_is_refused(trained, tmp_path):
    torch.save({'state_dict': {'fc.weight': torch.ones(2, 2)}}, tmp_path / 'other.pth')
    with pytest.raises(CheckpointMismatchError):
        decompose_checkpoint(trained[0], tmp_path / 'other.pth', tmp_path / 'out.pth', rate=2)


@pytest.mark.parametrize(
    'write', [functools.partial(decompose_checkpoint, rate=2), fold_checkpoint], ids=['decompose', 'fold']
)
def test_what_is_read_is_not_overwritten(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'net.py').write_text('model = dict(type="ResNet")  # mine\n')
    (tmp_path / 'net.pth').write_bytes(b'weights')
    (tmp_path / 'a.pth').write_bytes(b'weights')
    cfg = Config.fromfile(tmp_path / 'net.py')
    # The config beside the new checkpoint, and the checkpoint itself by another path.
    for checkpoint, out, file in (('a.pth', 'net.pth', 'net.py'), (tmp_path / 'a.pth', 'a.pth', 'a.pth')):
        with pytest.raises(ConfigError, match=f"would overwrite '{file}', which is read.* Give another name or folder"):
            write(cfg, checkpoint, out)
    assert (tmp_path / 'net.py').read_text().endswith('# mine\n') and not (tmp_path / 'a.py').exists()


def test_the_table_names_what_stays_plain():
    rows = [
        Layer('a', (8, 8, 3, 3), (4, 4), 0.25, (576, 208), (5760, 2080), (2e-3, 1e-3)),
        Layer('b', (8, 1, 3, 3), kept='depthwise'),
        Layer('c', (8, 8, 3, 3), (4, 4), 0.5, (576, 208), (5760, 2080), (1e-3, 2e-3), 'slower'),
    ]
    lines = cli.table(rows).splitlines()
    assert lines[2] == '| a | 8x8x3x3 | 4, 4 | 0.250 | 576 -> 208 | 5760 -> 2080 | 2.000 -> 1.000 |  |'
    assert lines[3] == '| b | 8x1x3x3 | - | - | - | - | - | stays plain: depthwise |'
    assert lines[4].endswith('| 1.000 -> 2.000 | stays plain: slower |')
    assert lines[-1].startswith('1 of 3 convolutions decomposed: 576 -> 208 weights, 5760 -> 2080 multiply-adds')


def test_where_is_read_from_the_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('c.py', 'c.pth'):
        Path(name).touch()
    arguments = ['c.py', 'c.pth', 'out.pth', '--rate', '2', '--where', 'stem=False', 'stages=[3,4]', 'names=conv2']
    assert cli.parse_args(arguments).where == {'stem': False, 'stages': [3, 4], 'names': 'conv2'}
    with pytest.raises(SystemExit):
        cli.parse_args([*arguments[:-3], 'stem'])
    assert '--where takes key=value pairs' in capsys.readouterr().err
