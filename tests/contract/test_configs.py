"""Every config of the repository parses, builds, trains a step on small input, and has the paper's settings."""

import copy
import gzip
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')

from mmcv.cnn.bricks.conv_ws import ConvWS2d
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from mmkerv.deploy.config import deploy_config
from mmkerv.deploy.upstream_step import merge_branches, merges_always
from mmkerv.engine.config.check import check_data
from mmkerv.engine.config.prepare import OPERATOR_RULES
from mmkerv.engine.config.read import load_config
from mmkerv.ops import (
    CKConv1d,
    CKConv2d,
    CoCConv2d,
    CondConv2d,
    DCLSConv2d,
    FDConv2d,
    InceptionDWConv2d,
    KANConv2d,
    KervConv2d,
    ReparamConv2d,
    switch_to_deploy,
)
from mmkerv.registry import HOOKS, package_config

ROOT = Path(__file__).resolve().parents[2] / 'configs'
CONFIGS = sorted(p for p in ROOT.rglob('*.py') if '_base_' not in p.parts)


def name_of(path):
    return str(path.relative_to(ROOT).with_suffix(''))


CLASSIFIERS = [
    p for p in CONFIGS if any(data in name_of(p) for data in ('mnist', 'cifar', 'imagenet', 'resnet18_shapes'))
]
OPERATORS = {
    '_coc': CoCConv2d,
    '_kerv': KervConv2d,
    '_ck': CKConv2d,
    'ckcnn': CKConv1d,
    '_dcls': DCLSConv2d,
    '_inceptiondw': InceptionDWConv2d,
    '_condconv': CondConv2d,
    '_fdconv': FDConv2d,
    '_kan': KANConv2d,
    '_reparam': ReparamConv2d,
    'unireplknet': ReparamConv2d,
}
VARIANTS = (*OPERATORS, '_orth', '_stnd', '_official')
every_config = pytest.mark.parametrize('path', CONFIGS, ids=name_of)


def kind_of(path):
    """Folder, kind of network and operators; of MNIST's small networks each is a kind."""
    if path.parent.name == 'mnist':
        return path
    network = re.sub(r'\d', '', path.stem.split('_')[0])
    return path.parent, network, *(mark for mark in VARIANTS if mark in path.stem)


def one_of_each_kind(slow=()):
    """All configs; the long tests take those named in ``slow`` and all of a kind but the shallowest."""
    first = {}
    for path in sorted(CONFIGS, key=lambda path: [int(number) for number in re.findall(r'\d+', path.stem)]):
        if path.stem not in slow:
            first.setdefault(kind_of(path), path)
    kept = set(first.values())
    params = (pytest.param(p, id=name_of(p), marks=() if p in kept else pytest.mark.long) for p in CONFIGS)
    return pytest.mark.parametrize('path', list(params))


# Those with operators inherit the data of those without.
every_data_set = pytest.mark.parametrize(
    'path',
    [
        p
        for p in CLASSIFIERS
        if not any(mark in p.stem for mark in ('_kerv', '_kan', '_ck', '_coc', '_condconv', '_orth', '_stnd'))
    ],
    ids=name_of,
)


def without_downloads(node):
    """Remove every pretrained checkpoint from a config: tests have no network access."""
    if isinstance(node, dict):
        for key, value in node.items():
            pretrained = key == 'init_cfg' and isinstance(value, dict) and 'checkpoint' in value
            if pretrained or key == 'pretrained':
                node[key] = None
            else:
                without_downloads(value)
    elif isinstance(node, (list, tuple)):
        for item in node:
            without_downloads(item)
    return node


def require_library(path):
    """Skip if a package whose config a config inherits is no part of the environment."""
    file = path
    while base := re.search(r"^_base_ = '(?:\./(?P<own>.*)|(?P<library>\w+)::.*)'", file.read_text(), re.MULTILINE):
        if base['library']:
            pytest.importorskip(base['library'])
            break
        file = file.parent / base['own']


def parse(path):
    """Read a config; skip as :func:`require_library` does."""
    require_library(path)
    return Config.fromfile(path)


def build(cfg):
    pytest.importorskip(cfg.default_scope)
    if 'TimmBackbone' in str(cfg.model.to_dict()):
        pytest.importorskip('timm')
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    config = without_downloads(copy.deepcopy(cfg.model))
    if cfg.get('data_preprocessor'):
        # As the runner does.
        config.setdefault('data_preprocessor', cfg.data_preprocessor)
    if cfg.default_scope == 'mmseg':
        config.data_preprocessor.size = (64, 64)
    if config.backbone.get('conv_cfg', {}).get('type') == 'ConvWS' and config.backbone.type != 'mmkerv.Converted':
        # Kernels of standard deviation 1 need the removed checkpoint's statistics, or new ones.
        config.backbone.norm_eval = False
    model = revert_sync_batchnorm(MODELS.build(config))
    model.init_weights()
    return model


def small_batch(path, cfg):
    """Two images as the data loader gives them, as small as the network accepts."""
    if cfg.default_scope == 'mmrotate':
        from mmrotate.testing import demo_mm_inputs

        return demo_mm_inputs(2, [[3, 64, 64]] * 2, num_classes=3, use_box_type=True)
    if cfg.default_scope == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        return demo_mm_inputs(2, [[3, 64, 64]] * 2, num_classes=3, with_mask=True)
    generator = torch.Generator().manual_seed(0)
    if cfg.default_scope == 'mmseg':
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        labels = torch.randint(4, (1, 64, 64), generator=generator)
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo={'img_shape': (64, 64)})
        images = torch.randint(256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)
        return {'inputs': list(images), 'data_samples': [sample, sample]}
    from mmpretrain.structures import DataSample

    shape = (1, 28, 28) if 'mnist' in name_of(path) else (3, 32, 32)
    if 'ckcnn' in path.stem:
        shape = (shape[0], 1, 50)
    images = torch.randint(256, (2, *shape), generator=generator, dtype=torch.uint8)
    return {'inputs': images, 'data_samples': [DataSample().set_gt_label(label) for label in (1, 2)]}


def with_rules(path):
    """Return the config that a config of CoC inherits its optimizer rules from: itself, or its base."""
    base = re.search(r"^_base_ = '\./(.*)'", path.read_text(), re.M)[1]
    return with_rules(path.parent / base) if '_coc' in base else path


def check_weight_decay(path, cfg, model, optimizer):
    """Learned hyperparameters of kervolution, super layers and kernel nets are not decayed, everything else is.

    The paper of CoC exempts nothing, so neither do the configs of its tables.
    """
    kervolutions = [f'{name}.' for name, m in model.named_modules() if isinstance(m, KervConv2d)]
    learned = {n for n, _ in model.named_parameters() if n.endswith(('.balance', '.gamma'))}
    learned = {n for n in learned if n.startswith(tuple(kervolutions))}
    assert bool(learned) == ("'learnable': True" in str(cfg.model.to_dict()))
    if '_kerv' in path.stem:
        # With upstream's script too, and for a hyperparameter that a user makes learnable later.
        assert cfg.optim_wrapper.constructor == OPERATOR_RULES
    of_table = '_coc' in path.stem and 'oriented' not in path.stem and not {'demo', 'tiny_imagenet'} & {*path.parts}
    assert cfg.optim_wrapper.get('paramwise_cfg', {}).get('operator_rules', True) != of_table
    if of_table:
        assert 'operator_rules=False' in re.split('^[^#]', (ROOT / with_rules(path)).read_text(), flags=re.M)[0]
    exempt = ('kernel_net.', 'super_layers.', '.positions')
    learned |= {n for n, _ in model.named_parameters() if any(part in n for part in exempt)}
    rules = cfg.optim_wrapper.get('paramwise_cfg') or {}
    if rules.get('flat_decay_mult') == 0 or 'decay_rate' in rules:
        # Upstream's ConvNeXt: no decay of biases, norms and layer scales.
        learned |= {n for n, p in model.named_parameters() if p.dim() <= 1}
    if rules.get('norm_decay_mult') == 0:
        kinds = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.LayerNorm)
        norms = tuple(f'{name}.' for name, m in model.named_modules() if isinstance(m, kinds))
        learned |= {n for n, _ in model.named_parameters() if n.startswith(norms)}
    # ConvMuon has an optimizer of its own for what it does not orthogonalise.
    settings = {'rest': rules.get('rest'), 'muon': cfg.optim_wrapper.optimizer}
    decay, decayed = {}, {}
    for group in optimizer.param_groups:
        own = settings['muon' if group.get('rule', 'muon') == 'muon' else 'rest']
        for parameter in group['params']:
            decay[id(parameter)], decayed[id(parameter)] = group['weight_decay'], own.get('weight_decay', 0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            expected = 0 if name in learned and not of_table else decayed[id(parameter)]
            assert decay[id(parameter)] == expected, name


# Configs of which one step takes long on a CPU.
SLOW = (
    'cascade_mask_rcnn_convnext_t_dcls',
    'cascade_mask_rcnn_unireplknet_s',
    'cascade_mask_rcnn_unireplknet_t',
    'convnext_base_dcls',
    'convnext_small_dcls',
    'mask_rcnn_hr18_ck',
    'mask_rcnn_hr18_kerv',
    'mask_rcnn_hr18_stnd',
    'mask_rcnn_r50_adamw',
    'mask_rcnn_r50_adamw_fdconv',
    'retinanet_r50_dcls',
    'retinanet_r50_fdconv',
    'unireplknet_s',
    'upernet_r50_fdconv_ade20k',
    'upernet_unireplknet_s_ade20k',
)


@one_of_each_kind(SLOW)
def test_config_builds_and_trains_a_step(path):
    cfg = parse(path)
    model = build(cfg)
    found = {kind for kind in OPERATORS.values() if any(isinstance(m, kind) for m in model.modules())}
    assert found == {kind for mark, kind in OPERATORS.items() if mark in path.stem}
    operators = [m for m in model.modules() if isinstance(m, tuple(OPERATORS.values()))]
    standardised = any(
        isinstance(m, ConvWS2d) or getattr(getattr(m, 'options', None), 'standardize', False) for m in model.modules()
    )
    assert standardised == ('_stnd' in path.stem or '_official' in path.stem)
    # Under SGD a super bias may keep a network from learning.
    biased = [m for m in model.modules() if isinstance(m, CoCConv2d) and m.options.super_bias]
    assert not biased or cfg.optim_wrapper.optimizer.type == 'AdamW'
    hooks = [hook.type for hook in cfg.get('custom_hooks') or []]
    assert ('mmkerv.OrthogonalityHook' in hooks) == ('_orth' in path.stem)
    optimizer = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper)).optimizer
    check_weight_decay(path, cfg, model, optimizer)

    batch = model.data_preprocessor(small_batch(path, cfg), True)
    model.train()
    loss, _ = model.parse_losses(model(**batch, mode='loss'))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for op in operators for p in op.parameters() if p.requires_grad)
    optimizer.step()
    assert all(bool(p.isfinite().all()) for p in model.parameters())

    if 'ckcnn' in path.stem:
        with pytest.raises(ValueError, match='no folded form'):
            deploy_config(cfg)
    elif not any(kind in path.stem for kind in ('_kerv', '_kan', '_fdconv', '_condconv')):
        switch_to_deploy(model, 'dense')
        deployed = deploy_config(cfg)
        if merges_always(model):
            merge_branches(model, deployed)
        plain = MODELS.build(without_downloads(deployed.model))
        plain.load_state_dict(model.state_dict())


@pytest.mark.parametrize('name', ['cascade_mask_rcnn_convnext_t_dcls', 'upernet_convnext_t_dcls_ade20k'])
def test_positions_are_shared_and_learn_faster_under_layer_decay(name):
    cfg = Config.fromfile(ROOT / f'{name}.py')
    model = build(cfg)
    optimizer = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper)).optimizer
    rates = {id(p): group['lr'] for group in optimizer.param_groups for p in group['params']}
    parameters, used = dict(model.named_parameters()), set()
    for stage, depth in enumerate((3, 3, 9, 3)):
        first = f'backbone.stages.{stage}.0.depthwise_conv.'
        assert parameters[f'{first}values'].shape[-1] == 34
        used.add(rates[id(parameters[f'{first}values'])])
        assert rates[id(parameters[f'{first}positions'])] == pytest.approx(5 * rates[id(parameters[f'{first}values'])])
        layers = [model.get_submodule(f'backbone.stages.{stage}.{i}.depthwise_conv') for i in range(depth)]
        assert len({id(layer.positions) for layer in layers}) == 1 and layers[0].kernel_size == (17, 17)
    assert len(used) == 4


def test_no_two_runs_share_a_folder():
    """A run writes to work_dirs/NAME_OF_CONFIG."""
    assert [name for name, count in Counter(path.stem for path in CONFIGS).items() if count > 1] == []


@pytest.mark.parametrize('path', [path for path in CONFIGS if path.parent.name == 'demo'], ids=name_of)
def test_demos_start_without_a_checkpoint(path):
    """They run without network access, and their networks are those of no published weights."""
    model = parse(path).model.to_dict()
    assert without_downloads(copy.deepcopy(model)) == model


def test_package_configs_are_found_by_their_path_below_configs():
    names = [str(path.relative_to(ROOT)) for path in ROOT.rglob('*.py')]
    assert len(names) > 100 and all(package_config(name).samefile(ROOT / name) for name in names)
    with pytest.raises(FileNotFoundError, match=r"mmkerv has no config 'resnet50_coc_imagenet\.py'"):
        package_config('resnet50_coc_imagenet.py')


@every_config
def test_config_begins_with_a_comment(path):
    assert path.read_text().startswith('# '), (
        'a config begins with a comment: table, row and published figure, or its purpose'
    )


# Those with operators inherit the data of those without.
@one_of_each_kind(slow=[p.stem for p in CONFIGS if any(mark in p.stem for mark in VARIANTS)])
def test_data_root_moves_every_data_set(path):
    require_library(path)
    cfg = load_config(str(path), {'data_root': '/elsewhere'})
    loaders = [loader for key, loader in cfg.items() if key.endswith('_dataloader')]
    roots = re.findall(r"'data_root': '([^']*)'", str([loader.to_dict() for loader in loaders]))
    assert len(loaders) == 3 <= len(roots) and all(root.startswith('/elsewhere') for root in roots)


@every_data_set
def test_pipelines_fit_the_network(path):
    pytest.importorskip('mmpretrain')
    cfg = Config.fromfile(path)
    init_default_scope('mmpretrain')
    size, shape = (300, 280, 3), (3, 224, 224)
    if 'mnist' in name_of(path):
        size, shape = (28, 28), (1, 28, 28)
    elif 'cifar' in name_of(path):
        size, shape = (32, 32, 3), (3, 32, 32)
    elif 'tiny_imagenet' in path.stem or 'shapes' in path.stem:
        size, shape = (64, 64, 3), (3, 64, 64)
    if 'ckcnn' in path.stem:
        shape = (shape[0], 1, shape[1] * shape[2])
    image = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        steps = [step for step in cfg[key].dataset.pipeline if step.type != 'LoadImageFromFile']
        packed = Compose(steps)({'img': image, 'img_shape': size[:2], 'ori_shape': size[:2], 'gt_label': 3})
        assert packed['inputs'].shape == shape and packed['data_samples'].gt_label.item() == 3


@pytest.fixture(scope='module')
def unpacked_mnist(data_root, tmp_path_factory):
    root = tmp_path_factory.mktemp('mnist')
    for packed in (data_root / 'mnist').glob('*.gz'):
        with gzip.open(packed) as source, (root / packed.stem).open('wb') as target:
            shutil.copyfileobj(source, target)
    return root


@pytest.mark.parametrize(
    ('name', 'sizes'), [('mnist/lenet5', (60000, 10000, 10000)), ('sequences/ckcnn_smnist', (55000, 5000, 10000))]
)
def test_mnist_is_split_as_the_config_states(name, sizes, unpacked_mnist):
    pytest.importorskip('mmpretrain')
    from mmpretrain.registry import DATASETS

    cfg = load_config(str(ROOT / f'{name}.py'), {'data_root': str(unpacked_mnist)})
    init_default_scope('mmpretrain')
    train, val, test = (DATASETS.build(cfg[f'{split}_dataloader'].dataset) for split in ('train', 'val', 'test'))
    assert (len(train), len(val), len(test)) == sizes
    # The first labels of the files.
    labels = [[int(dataset[i]['data_samples'].gt_label) for i in range(5)] for dataset in (train, test)]
    assert labels == [[5, 0, 4, 1, 9], [7, 2, 1, 0, 4]]


# CKConv: channels, omega_0, dropout, dropout on the input of the authors' published commands.
SEQUENCES = {
    'sequences/ckcnn_smnist': (30, 31.09195739463897, 0.1, 0.1),
    'sequences/ckcnn_large_smnist': (100, 30.5, 0.2, 0.2),
    'sequences/ckcnn_pmnist': (30, 43.45667389601194, 0.0, 0.1),
    'sequences/ckcnn_large_pmnist': (100, 42.161651744476515, 0.0, 0.2),
    'sequences/ckcnn_scifar10': (30, 25.696, 0.2, 0.0),
    'sequences/ckcnn_large_scifar10': (100, 25.696, 0.3, 0.0),
}


@pytest.mark.parametrize('name', SEQUENCES)
def test_sequence_runs_are_the_authors(name):
    pytest.importorskip('mmpretrain')
    channels, *settings = SEQUENCES[name]
    cfg = Config.fromfile(ROOT / f'{name}.py')
    backbone, length = cfg.model.backbone, 1024 if 'cifar' in name else 784
    assert (backbone.channels, backbone.num_blocks, backbone.hidden) == (channels, 2, 32)
    assert [backbone.omega_0, backbone.dropout, backbone.dropout_in] == settings
    assert backbone.kernel_size == length
    parameters = sum(p.numel() for p in build(cfg).parameters())
    assert parameters == pytest.approx(1e6 if channels == 100 else 1e5, rel=0.06)
    optimizer, schedule = cfg.optim_wrapper.optimizer, cfg.param_scheduler
    assert (optimizer.type, optimizer.lr, cfg.train_dataloader.batch_size) == ('Adam', 1e-3, 64)
    assert (schedule.type, schedule.factor, schedule.patience) == ('ReduceOnPlateauLR', 0.2, 20)
    assert cfg.train_cfg.max_epochs == 200
    permuted = [step.seed for step in cfg.test_dataloader.dataset.pipeline if step.type == 'mmkerv.Permute']
    assert permuted == ([0] if 'pmnist' in name else [])


@pytest.mark.parametrize('name', ['cifar/resnet110_cifar10plus', 'cifar/resnet32_cifar10_folder'])
def test_augmentation_pads_by_reflection(name):
    pytest.importorskip('mmpretrain')
    cfg = Config.fromfile(ROOT / f'{name}.py')
    init_default_scope('mmpretrain')
    steps = [step for step in cfg.train_dataloader.dataset.pipeline if step.type != 'LoadImageFromFile']
    train = Compose(steps)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode='reflect')
    views = {
        view.tobytes()
        for top in range(9)
        for left in range(9)
        for crop in [padded[top : top + 32, left : left + 32]]
        for view in (crop, crop[:, ::-1])
    }
    np.random.seed(0)
    found = {train({'img': image, 'gt_label': 0})['inputs'].permute(1, 2, 0).numpy().tobytes() for _ in range(60)}
    assert found <= views and len(found) > 30


@pytest.mark.parametrize(('network', 'classifier'), [('fcn_r50d8', 'resnet50_coc'), ('fcn_hr18', 'hrnet18_coc')])
def test_rows_of_a_segmentation_table_have_the_backbone_that_is_pretrained(network, classifier):
    rows = [Config.fromfile(path).model.backbone for path in sorted(ROOT.glob(f'{network}*_voc.py'))]
    family = Config.fromfile(ROOT / 'imagenet' / f'{classifier}.py').model.backbone.type.removeprefix('mmkerv.')
    assert len(rows) >= 6 and {row.pop('type').removeprefix('mmkerv.') for row in rows} == {family}
    for row in rows:
        for key in ('conv_cfg', 'where', 'init_cfg'):
            row.pop(key, None)
    assert all(row == rows[0] for row in rows)


def layers(name, kind):
    """Return the names of the layers of one class in an ImageNet network."""
    model = build(Config.fromfile(ROOT / 'imagenet' / f'{name}.py'))
    return {n for n, m in model.named_modules() if isinstance(m, kind)}, model


def test_rows_of_hrnet_have_the_same_layers():
    """The neck belongs to the paper's network; its convolutions of stride 2 are plain in every row."""
    pytest.importorskip('mmpretrain')
    down = {f'neck.0.downsample_layers.{i}.conv' for i in range(3)}
    bottlenecks = {f'neck.0.increase_layers.{i}.0.conv2' for i in range(4)}
    associated, coc = layers('hrnet18s_coc', CoCConv2d)
    plain = {n for n, m in coc.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert {n for n in plain if coc.get_submodule(n).kernel_size != (1, 1)} == down
    assert {n for n in associated if n.startswith('neck')} == bottlenecks

    standardised, stnd = layers('hrnet18s_stnd', ConvWS2d)
    every = {n for n, m in stnd.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert every == associated | plain and every - standardised == down

    stem = {'backbone.conv1', 'backbone.conv2'}
    for name in ('hrnet18s_orth', 'hrnet18s_coc_orth'):
        (hook,) = Config.fromfile(ROOT / 'imagenet' / f'{name}.py').custom_hooks
        model = coc if 'coc' in name else layers('hrnet18s', torch.nn.Conv2d)[1]
        assert set(HOOKS.build(hook).layers(model)) == every - down - stem

    # Where the checkpoint starts a detector or segmentor, only its backbone is read.
    keys = {k for k in coc.state_dict() if k.startswith('backbone.')}
    assert keys and not any('increase' in k or 'downsample_layers' in k for k in keys)


@pytest.mark.parametrize('name', ['resnet50_coc_stnd', 'hrnet18_coc_stnd'])
def test_1x1_convolutions_can_be_standardised_beside_associated_ones(name):
    pytest.importorskip('mmpretrain')
    (associated, authors), (others, both) = (layers(n, CoCConv2d) for n in (name, f'{name}_1x1'))
    assert others == associated and set(both.state_dict()) == set(authors.state_dict())
    plain = {n for n, m in authors.named_modules() if type(m) is torch.nn.Conv2d}
    standardised = {n for n, m in both.named_modules() if isinstance(m, ConvWS2d)}
    assert standardised == {n for n in plain if both.get_submodule(n).kernel_size == (1, 1)}
    assert len(standardised) == (36 if 'resnet' in name else 40 + 13)
    assert not any(isinstance(m, ConvWS2d) for m in authors.modules())


@pytest.mark.parametrize('name', ['fcn_r50d8_voc12', 'fcn_r50d8_coc_voc12'])
def test_voc_without_the_additional_annotations(name):
    cfg = Config.fromfile(ROOT / f'{name}.py')
    train, aug = (c.train_dataloader.dataset for c in (cfg, Config.fromfile(ROOT / 'fcn_r50d8_voc.py')))
    assert train == aug.datasets[0] and 'aug' not in str(cfg.train_dataloader).lower()
    assert cfg.val_dataloader == Config.fromfile(ROOT / 'fcn_r50d8_voc.py').val_dataloader


def test_the_message_of_a_missing_aug_list_names_the_way_without_it(tmp_path):
    lists = tmp_path / 'ImageSets' / 'Segmentation'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('a\n')
    path, root = str(ROOT / 'fcn_hr18_coc_voc.py'), {'data_root': str(tmp_path)}
    cfg = load_config(path, root)
    with pytest.raises(ValueError, match=r'aug\.txt.*voc12\.py.*--cfg-options (\S+) (\S+)$') as error:
        check_data(cfg, 'train')
    options = dict(option.split('=') for option in str(error.value).rpartition('--cfg-options ')[2].split())
    check_data(load_config(path, {**root, **options}), 'train')


def test_main_job_is_the_papers_schedule():
    cfg = Config.fromfile(ROOT / 'retinanet_r50_coc.py')
    optimizer, (warmup, steps) = cfg.optim_wrapper.optimizer, cfg.param_scheduler
    assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ('SGD', 0.01, 0.9, 1e-4)
    assert (steps.milestones, steps.gamma, cfg.train_cfg.max_epochs) == ([8, 11], 0.1, 12)
    assert warmup.end == 500
    assert (cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size) == (4, 16)
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert next(t for t in pipeline if t.type == 'Resize').scale == (1333, 800)
    kinds = [t.type for t in pipeline]
    assert kinds == ['LoadImageFromFile', 'LoadAnnotations', 'Resize', 'RandomFlip', 'PackDetInputs']
    assert cfg.model.backbone.conv_cfg.type == 'mmkerv.CoCConv' and cfg.model.backbone.depth == 50


# Sections 5.1 and 5.2: epochs, milestones, weight decay, batch of all devices, kernel of the first convolution.
CIFAR = (200, [75, 125, 150], 5e-4, 128, {'degree': 3, 'learnable': True})
DENSE = (300, [150, 225], 1e-4, 64, {'degree': 3, 'learnable': True})
IMAGENET = (100, [30, 60, 90], 1e-4, 256, {'degree': 3, 'balance': 2.0})
RUNS = {
    **{f'cifar/resnet110{{}}_cifar{n}': CIFAR for n in (10, 100)},
    **{f'cifar/{net}{{}}_cifar{n}plus': CIFAR for net in ('resnet110', 'googlenet') for n in (10, 100)},
    **{f'cifar/densenet40{{}}_cifar{n}plus': DENSE for n in (10, 100)},
    'cifar/resnet32{}_cifar10plus': CIFAR,
    **{f'imagenet/resnet{depth}{{}}': IMAGENET for depth in (18, 34, 50, 101)},
}


@pytest.mark.parametrize('operator', ['', '_kerv'], ids=['plain', 'kerv'])
@pytest.mark.parametrize('name', RUNS)
def test_classification_runs_are_the_papers(name, operator):
    pytest.importorskip('mmpretrain')
    epochs, milestones, weight_decay, batch, kernel = RUNS[name]
    cfg = Config.fromfile(ROOT / f'{name.format(operator)}.py')
    optimizer, schedule = cfg.optim_wrapper.optimizer, cfg.param_scheduler
    if 'resnet110' in name:
        warmup, schedule = schedule
        assert (warmup.type, warmup.factor, warmup.end, warmup.by_epoch) == ('ConstantLR', 0.1, 400, False)
    assert (optimizer.type, optimizer.lr, optimizer.momentum) == ('SGD', 0.1, 0.9)
    assert optimizer.weight_decay == weight_decay
    assert (schedule.milestones, schedule.gamma, cfg.train_cfg.max_epochs) == (milestones, 0.1, epochs)
    devices = 4 if 'imagenet' in name else 1
    assert cfg.train_dataloader.batch_size * devices == cfg.auto_scale_lr.base_batch_size == batch
    classes = 1000 if 'imagenet' in name else int(name.removesuffix('plus').rpartition('cifar')[2])
    assert cfg.model.head.num_classes == classes == cfg.data_preprocessor.num_classes
    backbone = cfg.model.backbone
    if operator:
        assert backbone.conv_cfg == {'type': 'mmkerv.KervConv', 'kernel': 'polynomial', **kernel}
        model = build(cfg)
        (first,) = [name for name, m in model.named_modules() if isinstance(m, KervConv2d)]
        others = [name for name, m in model.named_modules() if isinstance(m, (torch.nn.Conv2d, KervConv2d))]
        assert first == others[0]
    else:
        assert 'conv_cfg' not in backbone


@pytest.mark.parametrize('degree', [3, 5])
@pytest.mark.parametrize('balance', [0.0, 1.0, None])
def test_tables_4_and_5_differ_in_degree_and_balance(degree, balance):
    pytest.importorskip('mmpretrain')
    name = 'kerv' if balance is None and degree == 3 else f'kerv_d{degree}'
    name += '' if balance is None else f'_c{balance:.0f}'
    cfg = Config.fromfile(ROOT / f'cifar/resnet32_{name}_cifar10plus.py')
    (first,) = [m for m in build(cfg).modules() if isinstance(m, KervConv2d)]
    assert (first.degree, isinstance(first.balance, torch.nn.Parameter)) == (degree, balance is None)
    assert float(first.balance) == (1.0 if balance is None else balance)
    assert cfg.model.backbone.depth == 32 and cfg.train_cfg.max_epochs == 200
