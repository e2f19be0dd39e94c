import copy
from argparse import Namespace
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper
from torch import nn

from mmkerv.engine import CheckpointMatchHook
from mmkerv.engine.checkpoint.publish import sha256, strip_checkpoint
from mmkerv.engine.config.check import RENAMED_HOOKS, check_data, check_hooks, check_operators, data_faults, loop_faults
from mmkerv.engine.config.evaluation import evaluate, paint_predictions
from mmkerv.engine.config.prepare import config_faults, prepare, set_loader_defaults, use_amp
from mmkerv.engine.config.read import load_config
from mmkerv.errors import ConfigError
from mmkerv.ops import CoCConv

BASE = """
data_root = 'data/old/'
train_dataloader = dict(dataset=dict(
    type='RepeatDataset', times=2,
    dataset=dict(type='A', data_root=data_root, ann_file='a.json', other='data/older/b.txt')))
val_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=[
    dict(type='A', data_root=data_root), dict(type='B', data_root='elsewhere', ann_file=data_root + 'c.json')]))
val_evaluator = [dict(type='M', ann_file=data_root + 'c.json')]
train_pipeline = [dict(type='Load', files=(data_root + 'x', 3))]
model = dict(type='Net', backbone=dict(type='ResNet', init_cfg=None, conv_cfg=dict(type='CoCConv', association=3)))
test_dataloader = None
"""


@pytest.fixture
def config(tmp_path) -> str:
    (tmp_path / 'config.py').write_text(BASE)
    return str(tmp_path / 'config.py')


@pytest.mark.parametrize('root', ['/new', '/new/'])
def test_new_data_root_moves_every_path_below_the_old_one(config, root):
    cfg = load_config(config, {'data_root': root})
    train = cfg.train_dataloader.dataset.dataset
    assert train.data_root.rstrip('/') == '/new' and train.ann_file == 'a.json' and train.other == 'data/older/b.txt'
    first, second = cfg.val_dataloader.dataset.datasets
    assert first.data_root.rstrip('/') == '/new'
    assert (second.data_root, second.ann_file) == ('elsewhere', '/new/c.json')
    assert cfg.val_evaluator[0].ann_file == '/new/c.json'
    assert cfg.train_pipeline[0].files == ('/new/x', 3)
    assert cfg.model.type == 'Net' and cfg.test_dataloader is None


def test_new_data_root_moves_the_data_sets_of_a_config_without_the_variable():
    """mmpretrain writes the folder into each data set."""
    cfg = load_config('mmpretrain::resnet/resnet18_8xb32_in1k.py', {'data_root': '/new'})
    assert cfg.train_dataloader.dataset.data_root == cfg.val_dataloader.dataset.data_root == '/new'


@pytest.mark.parametrize('roots, have', [(('a/', 'b/'), "'a/' and 'b/'"), ((None, None), 'none')])
def test_new_data_root_of_data_sets_without_a_common_one_is_refused(tmp_path, roots, have):
    path = tmp_path / 'config.py'
    loader = 'dict(dataset=dict(type="A", data_root={!r}))'.format
    path.write_text(f'train_dataloader = {loader(roots[0])}\nval_dataloader = {loader(roots[1])}\n')
    with pytest.raises(ConfigError, match=f'data_root=/new does not fit .*its data sets have {have}'):
        load_config(str(path), {'data_root': '/new'})


def test_paths_stay_without_a_new_data_root(config):
    assert load_config(config, {'model.depth': 3}).val_evaluator[0].ann_file == 'data/old/c.json'
    assert load_config(config)._cfg_dict.to_dict() == Config.fromfile(config)._cfg_dict.to_dict()


@pytest.mark.parametrize(
    'options, reason',
    [
        ({'train_pipeline.5.type': 'A'}, r'Index 5 exceeds the length of list'),
        ({'train_pipeline.type': 'A'}, r'.'),
        ({'model.type.name': 'A'}, r"type=\{'name': 'A'\}"),
        ({'model.backbone.init_cfg.type': 'Pretrained'}, r'NoneType'),
    ],
)
def test_option_that_does_not_fit_the_config_is_refused(config, options, reason):
    with pytest.raises(
        ConfigError, match=rf'(?s)--cfg-options {next(iter(options))}=\w+ does not fit .*{reason}.*Change'
    ):
        load_config(config, options)


@pytest.mark.parametrize('kind', ['CoCConv', 'mmkerv.CoCConv', CoCConv], ids=['name', 'scope', 'class'])
@pytest.mark.parametrize(
    'options, reason',
    [
        (dict(asociation=2), "has no argument 'asociation'; did you mean 'association'"),
        (dict(association=0), 'association must be >= 1, got 0'),
        (dict(kernel_plus=3), 'kernel_plus must be even, got 3; use 2 or 4'),
        (dict(share='x'), "share must be one of 'ci', 'co', 'cico', None, got 'x'"),
    ],
)
def test_operator_arguments_are_checked_with_the_config(kind, options, reason):
    good, bad = dict(type=kind, association=3), dict(type=kind, **options)
    model = dict(backbone=dict(conv_cfg=good), heads=[dict(conv_cfg=dict(type='ConvWS', x=1)), dict(dw_conv_cfg=bad)])
    before = copy.deepcopy(model)
    with pytest.raises(ConfigError) as caught:
        check_operators(model, 'model')
    message = str(caught.value)
    assert message.startswith('model.heads.1.dw_conv_cfg: ') and reason in message
    assert '--cfg-options model.heads.1.dw_conv_cfg.ARGUMENT=VALUE' in message
    model['heads'].pop()
    check_operators(model, 'model')
    assert model['backbone'] == before['backbone']


@pytest.mark.parametrize(
    'conv_cfg, message',
    [
        (dict(type='CocConv'), ".type: 'CocConv' is neither an operator .*; did you mean 'mmkerv.CoCConv'\\?"),
        (dict(type='mmkerv.CocConv'), ".type: 'mmkerv.CocConv' is .*did you mean 'mmkerv.CoCConv'"),
        (dict(type='KervConv '), ".type: 'KervConv ' is .*did you mean 'mmkerv.KervConv'"),
        (
            dict(type='Nothing'),
            r".type: 'Nothing' is .*\. mmkerv.list_operators\(\) .*type=NAME; .*custom_imports",
        ),
        (dict(type='CKConv', kernel_size=7), ': CKConv gets kernel_size from the network, .*write kernel_extent=7, '),
        (dict(type='CoCConv', kernel_size=7), ': CoCConv gets kernel_size .*cannot have kernel_size=7; leave it out'),
        (
            dict(type='DCLSConv', stride=2),
            ': DCLSConv gets stride .*cannot have stride=2; leave it out',
        ),
    ],
    ids=['case', 'scope', 'blank', 'unknown', 'kernel_extent', 'kernel_size', 'stride'],
)
def test_a_conv_cfg_that_no_layer_can_have_is_named(conv_cfg, message):
    with pytest.raises(ConfigError, match=f'^model.neck.conv_cfg{message}'):
        check_operators(dict(neck=dict(conv_cfg=conv_cfg)), 'model', 'mmdet')


def test_convolutions_of_the_libraries_are_known():
    pytest.importorskip('mmcv')
    for kind in ('Conv2d', 'Conv', 'ConvWS', 'ConvAWS', 'FoldedConv', 'mmkerv.FoldedConv', 'Conv1d'):
        check_operators(dict(conv_cfg=dict(type=kind)), 'model', 'mmdet')
    check_operators(dict(conv_cfg=None, stem=dict(conv_cfg=dict(type=nn.Conv2d))), 'model')


@pytest.mark.parametrize('kind', ['mmkerv.ResNet', 'mmkerv.Converted'])
def test_an_unknown_key_of_where_is_named_with_its_place(kind):
    part = dict(type=kind, conv_cfg=dict(type='CoCConv'), where=dict(stage=(2, 3)))
    with pytest.raises(ConfigError, match=r"^model.backbone.where: where has no .*'stage'; did you mean 'stages'\?"):
        check_operators(dict(backbone=part), 'model')
    hook = dict(type='mmkerv.OrthogonalityHook', where=dict(kernel_size=3))
    with pytest.raises(ConfigError, match=r"^custom_hooks.1.where: .*'kernel_size'; did you mean 'kernel_sizes'"):
        check_hooks(Config(dict(custom_hooks=[dict(type='EMAHook'), hook])))
    # The key of another class is its own business.
    check_operators(dict(backbone=dict(type='mmdet.ResNet', where=dict(stage=1))), 'model')


def data(root: Path, **changes) -> Config:
    dataset = {**dict(type='CocoDataset', data_root=str(root), ann_file='a.json'), **changes}
    return Config(dict(val_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=[dataset]))))


def test_existing_or_remote_data_passes(tmp_path):
    (tmp_path / 'a.json').write_text('{}')
    check_data(data(tmp_path), 'val')
    check_data(data(tmp_path, data_root=None, ann_file=str(tmp_path / 'a.json')), 'val')
    check_data(data(tmp_path, ann_file=''), 'val')
    check_data(data(tmp_path, data_root='s3://bucket'), 'val')
    check_data(data(tmp_path, data_root=None, ann_file='s3://bucket/a.json'), 'val')
    check_data(data('data/coco', backend_args=dict(backend='petrel')), 'val')
    check_data(data(tmp_path), 'train')


@pytest.mark.parametrize(('scope', 'is_fault'), [('mmpretrain', False), ('mmdet', True)])
def test_annotations_in_the_home_folder_are_found_by_mmpretrain(tmp_path, monkeypatch, scope, is_fault):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'train.txt').touch()
    dataset = dict(type='CustomDataset', ann_file='~/train.txt')
    cfg = Config(dict(default_scope=scope, train_dataloader=dict(dataset=dataset)))
    assert bool(list(data_faults(cfg, 'train'))) == is_fault


def test_annotations_may_be_a_folder_of_texts(tmp_path):
    folder = tmp_path / 'labelTxt'
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"ann_file: '.*labelTxt' does not exist or has no texts"):
        check_data(data(tmp_path, type='DOTADataset', ann_file='labelTxt/'), 'val')
    (folder / 'P0001.txt').write_text('')
    check_data(data(tmp_path, type='DOTADataset', ann_file='labelTxt/'), 'val')


@pytest.mark.parametrize('missing', ['data_root', 'ann_file'])
def test_missing_data_is_named(tmp_path, missing):
    root = tmp_path / 'absent' if missing == 'data_root' else tmp_path
    path = root if missing == 'data_root' else root / 'a.json'
    place = r'val_dataloader\.dataset\.datasets\.0\.'
    with pytest.raises(ConfigError, match=rf"{place}{missing}: '{path}' does not exist.*--cfg-options data_root=DIR"):
        check_data(data(root), 'val')


@pytest.mark.parametrize('kind', ['CIFAR10', 'mmpretrain.MNIST'])
def test_data_that_upstream_downloads_may_be_missing(kind):
    pytest.importorskip('mmpretrain')
    dataset = dict(type=kind, data_root='absent')
    cfg = Config(dict(default_scope='mmpretrain', train_dataloader=dict(dataset=dataset)))
    assert list(data_faults(cfg, 'train')) == []
    cfg.train_dataloader.dataset.download = False
    (fault,) = data_faults(cfg, 'train')
    assert "train_dataloader.dataset.data_root: 'absent' does not exist" in fault


def test_a_folder_that_two_data_sets_lack_is_told_once(tmp_path):
    cfg = Config(
        {f'{phase}_dataloader': dict(dataset=dict(type='A', data_root='absent')) for phase in ('train', 'val')}
    )
    (fault,) = data_faults(cfg, 'train', 'val')
    keys = 'train_dataloader.dataset.data_root', 'val_dataloader.dataset.data_root'
    assert fault.startswith(f"{', '.join(keys)}: 'absent' does not exist (seen from ")
    assert fault.endswith(f'--cfg-options data_root=DIR (or {keys[0]}=... {keys[1]}=...)')
    cfg.val_dataloader.dataset.data_root = 'elsewhere'
    assert len(list(data_faults(cfg, 'train', 'val'))) == 2


def test_prepare_adds_what_both_tools_need(tmp_path):
    args = Namespace(config='configs/net.py', work_dir=None, launcher='pytorch')
    cfg = prepare(Config(dict(custom_hooks=[dict(type='EMAHook')])), args, ('test',))
    assert [hook['type'] for hook in cfg.custom_hooks] == [
        'EMAHook',
        'mmkerv.FrozenKernelsHook',
        'mmkerv.CheckpointLayoutHook',
        'mmkerv.CheckpointMatchHook',
        'mmkerv.OperatorReportHook',
    ]
    assert all(list(hook) == ['type'] for hook in cfg.custom_hooks), 'the config that is written serves any tool'
    assert cfg.launcher == 'pytorch' and Path(cfg.work_dir) == Path('work_dirs/net')
    args.work_dir = str(tmp_path)
    for kind in ('mmkerv.CheckpointMatchHook', CheckpointMatchHook):
        own = dict(type=kind, strict=False)
        cfg = prepare(Config(dict(custom_hooks=[own], work_dir='a')), args, ())
        assert cfg.work_dir == str(tmp_path)
        assert [h for h in cfg.custom_hooks if 'strict' in h] == [own], "a config's own hook wins"


@pytest.mark.parametrize(
    ('device', 'expected'),
    [
        ('cuda', dict(type='AmpOptimWrapper', loss_scale='dynamic')),
        ('cpu', dict(type='mmkerv.CpuAmpOptimWrapper')),
    ],
)
def test_mixed_precision_wrapper_depends_on_the_device(monkeypatch, device, expected):
    monkeypatch.setattr('mmkerv.engine.config.prepare.get_device', lambda: device)
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper')))
    use_amp(cfg)
    use_amp(cfg)
    assert cfg.optim_wrapper.to_dict() == expected
    with pytest.raises(ConfigError, match=r"--amp needs optim_wrapper\.type='OptimWrapper', got 'ApexOptimWrapper'"):
        use_amp(Config(dict(optim_wrapper=dict(type='ApexOptimWrapper'))))


@pytest.mark.parametrize('kind', ['AmpOptimWrapper', 'mmengine.AmpOptimWrapper', AmpOptimWrapper])
def test_mixed_precision_of_a_gpu_is_refused_without_one(monkeypatch, kind):
    wrapper = dict(type=kind, loss_scale='dynamic', dtype='float16', accumulative_counts=2)
    cfg = Config(dict(optim_wrapper=wrapper))
    monkeypatch.setattr('mmkerv.engine.config.prepare.get_device', lambda: 'cuda')
    assert config_faults(cfg, ('train',)) == []
    use_amp(cfg)
    assert cfg.optim_wrapper.type == kind
    monkeypatch.setattr('mmkerv.engine.config.prepare.get_device', lambda: 'cpu')
    (fault,) = config_faults(cfg, ('train',))
    assert fault.startswith("optim_wrapper.type='AmpOptimWrapper' needs a GPU, and there is none here: add --amp")
    assert config_faults(cfg, ('test',)) == []
    use_amp(cfg)
    assert cfg.optim_wrapper.to_dict() == dict(type='mmkerv.CpuAmpOptimWrapper', accumulative_counts=2)
    assert config_faults(cfg, ('train',)) == []


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet'])
@pytest.mark.parametrize('workers', [0, 2])
def test_loaders_of_mmpretrain_get_their_defaults(scope, workers):
    cfg = Config(dict(default_scope=scope, train_dataloader=dict(num_workers=workers), val_dataloader=None))
    set_loader_defaults(cfg)
    expected = dict(num_workers=workers)
    if scope == 'mmpretrain':
        expected |= dict(pin_memory=True, persistent_workers=workers > 0, collate_fn=dict(type='default_collate'))
    assert cfg.train_dataloader.to_dict() == expected
    set_loader_defaults(cfg, pin_memory=False, persistent_workers=False)
    assert (cfg.train_dataloader.pin_memory, cfg.train_dataloader.persistent_workers) == (False, False)


@pytest.mark.parametrize(
    ('keys', 'phases', 'faults'),
    [
        ('val_cfg val_evaluator test_cfg', (), ['no val_dataloader', 'no test_dataloader and no test_evaluator']),
        ('train_dataloader', ('train',), ['no train_cfg, which a training needs', 'no optim_wrapper, which a']),
        ('test_dataloader test_evaluator', ('test',), ['no test_cfg, which a test needs']),
        ('test_cfg test_dataloader test_evaluator', ('test',), []),
        ('', (), []),
    ],
)
def test_parts_of_a_loop_belong_together(keys, phases, faults):
    # mmpretrain's configs give loops by empty dicts.
    cfg = Config({key: {'a': 1} if key.startswith('train') else {} for key in keys.split()})
    found = list(loop_faults(cfg, *phases))
    assert len(found) == len(faults) and all(words in fault for words, fault in zip(faults, found)), found


def test_lists_of_loaders_are_completed_and_checked(tmp_path):
    loaders = [dict(num_workers=0, dataset=dict(type='A', data_root=str(tmp_path))) for _ in range(2)]
    cfg = Config(dict(default_scope='mmpretrain', val_dataloader=loaders))
    set_loader_defaults(cfg)
    assert all(loader.collate_fn.type == 'default_collate' for loader in cfg.val_dataloader)
    check_data(cfg, 'val')
    cfg.val_dataloader[1].dataset.data_root = 'absent'
    with pytest.raises(ConfigError, match=r"val_dataloader\.1\.dataset\.data_root: 'absent' does not exist"):
        check_data(cfg, 'val')


@pytest.mark.parametrize('change', [dict(metainfo=dict(classes=('circle'))), dict(classes=('circle'))])
def test_a_string_for_the_classes_is_refused(tmp_path, change):
    place = 'metainfo.classes' if 'metainfo' in change else 'classes'
    message = rf"dataset\.{place} must be a sequence .*, got the string 'circle'; write \('circle',\)"
    with pytest.raises(ConfigError, match=message):
        check_data(Config(dict(val_dataloader=dict(dataset=dict(type='A', **change)))), 'val')
    (tmp_path / 'names.txt').write_text('circle')
    cfg = dict(val_dataloader=dict(dataset=dict(type='A', classes=str(tmp_path / 'names.txt'))))
    check_data(Config(cfg), 'val')


@pytest.mark.parametrize(
    'scope, expected',
    [
        ('mmdet', dict(show=True, wait_time=1, draw=True, test_out_dir='out')),
        ('mmpretrain', dict(show=True, wait_time=1, enable=True, out_dir='out', interval=3)),
        ('mmseg', dict(show=True, wait_time=1, draw=True)),
    ],
)
def test_painting_switches_on_the_hook_of_the_library(scope, expected):
    cfg = Config(dict(default_scope=scope, default_hooks=dict(visualization=dict(type='Hook')), visualizer=dict()))
    paint_predictions(cfg, True, 'out', 1, 3 if scope == 'mmpretrain' else None)
    assert cfg.default_hooks.visualization.to_dict() == dict(type='Hook', **expected)
    assert cfg.visualizer.get('save_dir') == ('out' if scope == 'mmseg' else None)
    # mmseg writes no file without this backend.
    assert cfg.visualizer.get('vis_backends') == ([dict(type='LocalVisBackend')] if scope == 'mmseg' else None)
    if scope != 'mmpretrain':
        with pytest.raises(ConfigError, match=f'--interval is for classification, and {scope} draws every image'):
            paint_predictions(cfg, True, 'out', 1, 3)
    with pytest.raises(ConfigError, match='--show and --show-dir need a visualizer'):
        paint_predictions(Config(dict(default_scope=scope, default_hooks=dict(visualization={}))), True, None, 1)
    with pytest.raises(ConfigError, match='--show and --show-dir need default_hooks'):
        paint_predictions(Config(dict(default_scope=scope)), True, None, 1)


@pytest.mark.parametrize('scope', ['mmdet', 'mmpretrain'])
@pytest.mark.parametrize('out, item', [('a.txt', 'pred'), ('a.json', 'pred'), ('a.csv', 'metrics'), ('a', 'metrics')])
def test_results_of_an_unknown_kind_are_refused_before_the_test(scope, out, item):
    with pytest.raises(ConfigError, match=rf"--out must end in \..* for {item}, got '{out}'"):
        evaluate(Config(dict(default_scope=scope)), out, item)


def test_published_checkpoint_keeps_the_weights_and_metadata_alone():
    ema = {'steps': 3, 'module.a': 'raw'}
    checkpoint = {'meta': {}, 'state_dict': {'a': 'averaged'}, 'ema_state_dict': ema, 'optimizer': {}}
    assert strip_checkpoint(checkpoint) == {'meta': {}, 'state_dict': {'a': 'averaged'}}
    assert strip_checkpoint(checkpoint, ['state_dict'], no_ema=True) == {'state_dict': {'a': 'raw'}}
    assert checkpoint['state_dict'] == {'a': 'averaged'}
    with pytest.raises(ConfigError, match='--save-keys: the checkpoint has no b; it has meta, state_dict'):
        strip_checkpoint(checkpoint, ['meta', 'b'])
    with pytest.raises(ConfigError, match='--no-ema: the checkpoint has no ema_state_dict'):
        strip_checkpoint({'meta': {}, 'state_dict': {}}, no_ema=True)
    with pytest.raises(ConfigError, match='holds a list'):
        strip_checkpoint([1])
    with pytest.raises(ConfigError, match='it has nothing'):
        strip_checkpoint({})


def test_sha256(tmp_path):
    (tmp_path / 'a').write_bytes(b'abc')
    assert sha256(tmp_path / 'a').startswith('ba7816bf8f01cfea414140de5dae2223')


@pytest.mark.parametrize(('old', 'new'), RENAMED_HOOKS.items())
@pytest.mark.parametrize('scope', ['', 'mmkerv.'])
def test_old_hook_names_are_refused_with_the_new_one(tmp_path, old, new, scope):
    cfg = Config(dict(custom_hooks=[dict(type='EMAHook'), dict(type=f'{scope}{old}')]))
    with pytest.raises(ConfigError, match=f"hook '{scope}{old}' is now called '{new}'"):
        prepare(cfg, Namespace(config='net.py', work_dir=None, launcher='none'), ())
    cfg.dump(str(tmp_path / 'net.py'))
    with pytest.raises(ConfigError, match=f"'{new}'"):
        load_config(str(tmp_path / 'net.py'))
    check_hooks(Config(dict(custom_hooks=[dict(type=f'other.{old}'), dict(type=f'mmkerv.{new}')])))
