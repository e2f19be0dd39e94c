import copy
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from torch import nn

from mmkerv.deploy import model_outputs
from mmkerv.deploy.fold import FoldResult, fold_checkpoint
from mmkerv.deploy.model_outputs import association_strength, largest_difference, raw_outputs
from mmkerv.engine import safe_load
from mmkerv.errors import CheckpointMismatchError, ConfigError, FoldCheckError, NonFiniteWeightsError
from mmkerv.ops import CoCConv2d
from mmkerv.ops.core import generated
from tests.engine.small_networks import NETWORKS, SIZE, associated, classifier, operators, retinanet


def save(model: nn.Module, file: Path) -> Path:
    meta = {'epoch': 3, 'cfg': 'the old one', 'seed': np.int64(1)}
    torch.save({'meta': meta, 'state_dict': model.state_dict()}, file)
    return file


def mobilenet() -> Config:
    cfg = classifier()
    cfg.model.backbone = dict(
        type='mmkerv.MobileNetV2', widen_factor=0.25, conv_cfg=dict(type='InceptionDWConv'), where=dict(stem=False)
    )
    cfg.model.head.in_channels = 1280
    return cfg


def partial() -> Config:
    cfg = classifier()
    network = dict(type='mmpretrain.ResNet', depth=18, base_channels=8)
    cfg.model.backbone = dict(
        type='mmkerv.Converted', model=network, conv_cfg=dict(type='PConv'), where=dict(names=['layer3.*conv2'])
    )
    return cfg


def mixed() -> Config:
    cfg = mobilenet()
    cfg.model.backbone.conv_cfg = dict(type='MixConv', sizes=(1, 3))
    return cfg


# Networks with operators that convolve parts of the channels.
SPLIT = {'mobilenet': mobilenet, 'partial': partial, 'mixed': mixed}


class Folded(NamedTuple):
    """A network and the result of folding it."""

    cfg: Config
    model: nn.Module
    folder: Path
    result: FoldResult


@pytest.fixture(scope='module')
def fold(tmp_path_factory):
    """Fold one of the small networks, once."""

    @functools.cache
    def fold(network: str) -> Folded:
        cfg = {**NETWORKS, **SPLIT}[network]()
        cfg.custom_imports = dict(imports=['mmkerv'], allow_failed_imports=False)
        folder, model = tmp_path_factory.mktemp(network), associated(cfg)
        out, split = folder / 'out' / 'deploy.pth', 'dense' if network in SPLIT else 'keep'
        result = fold_checkpoint(cfg, save(model, folder / 'epoch_3.pth'), out, shape=SIZE, split=split)
        return Folded(cfg, model, folder, result)

    return fold


@pytest.fixture(params=NETWORKS)
def folded(request, fold) -> Folded:
    pytest.importorskip(NETWORKS[request.param]().default_scope)
    return fold(request.param)


def samples(model):
    if not hasattr(model, 'bbox_head') and not hasattr(model, 'roi_head'):
        return None
    from mmdet.structures import DetDataSample

    names = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    return [DetDataSample(metainfo={**dict.fromkeys(names, SIZE), 'scale_factor': (1.0, 1.0)})]


def test_every_operator_is_folded_and_the_check_passes(folded):
    cfg, model, folder, result = folded
    assert len(result.report.replaced) == len(operators(model)) > 5 and not result.report.kept
    assert min(result.associations) >= 0.3
    assert 0 <= result.error < 1e-4 and result.inputs == 1
    assert sorted(p.name for p in (folder / 'out').iterdir()) == ['deploy.pth', 'deploy.py']
    assert 'CoCConv' in cfg.pretty_text, 'the argument is unchanged'


def test_meta_is_kept_and_its_config_replaced(folded):
    _, _, folder, _ = folded
    loaded = safe_load(folder / 'out' / 'deploy.pth')
    assert set(loaded) == {'meta', 'state_dict'}
    text = (folder / 'out' / 'deploy.py').read_text()
    assert loaded['meta'] == {'epoch': 3, 'seed': 1, 'cfg': text}
    assert 'mmkerv' not in text and 'CoCConv' not in text and 'super' not in text
    assert not any('super' in key for key in loaded['state_dict'])


PLAIN = """
import sys
sys.modules['mmkerv'] = None
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
for folder in sys.argv[1:]:
    cfg = Config.fromfile(folder + '/out/deploy.py')
    init_default_scope(cfg.default_scope)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
    model.load_state_dict(torch.load(folder + '/out/deploy.pth', weights_only=False)['state_dict'])
    torch.manual_seed(0)
    with torch.no_grad():
        torch.save(model.extract_feat(torch.randn(1, 3, 64, 64)), folder + '/features.pth')
"""


@pytest.mark.slow
def test_the_deploy_config_works_without_mmkerv(fold):
    """A process that cannot import mmkerv builds the deploy configs, loads them strictly and computes the same."""
    networks = {**NETWORKS, **SPLIT}
    found = [fold(name) for name, make in networks.items() if importlib.util.find_spec(make().default_scope)]
    if not found:
        pytest.skip('none of mmdet, mmseg, mmpretrain is installed')
    done = subprocess.run(
        [sys.executable, '-c', PLAIN, *(str(network.folder) for network in found)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for network in found:
        torch.manual_seed(0)
        with torch.no_grad():
            features = network.model.extract_feat(torch.randn(1, 3, *SIZE))
        assert largest_difference([*features], [*torch.load(network.folder / 'features.pth')]) < 1e-4


def test_raw_outputs_depend_on_the_super_layers(folded):
    """So comparing them finds a fold that drops the super layers."""
    _, model, _, _ = folded
    torch.manual_seed(0)
    inputs = torch.randn(1, 3, *SIZE)
    before = raw_outputs(model, inputs, samples(model))
    assert before and all(tensor.isfinite().all() for tensor in before)
    assert any(tensor.std() > 0 for tensor in before if tensor.numel() > 1)
    plain = copy.deepcopy(model)
    for operator in operators(plain):
        for parameter in operator.own_parameters().values():
            parameter.data.zero_()
    assert max(association_strength(plain)) == 0
    assert largest_difference(before, raw_outputs(plain, inputs, samples(model))) > 1e-2


@pytest.mark.parametrize('network', NETWORKS)
def test_a_wrong_fold_is_refused_and_nothing_is_written(tmp_path, monkeypatch, network):
    """A fold that drops the super layers."""
    cfg = NETWORKS[network]()
    pytest.importorskip(cfg.default_scope)
    checkpoint = save(associated(cfg), tmp_path / 'epoch_3.pth')
    right = CoCConv2d.to_conv2d

    def without_super_layers(operator):
        conv = right(operator)
        conv.weight.data.copy_(operator.weight)
        return conv

    monkeypatch.setattr(CoCConv2d, 'to_conv2d', without_super_layers)
    with pytest.raises(FoldCheckError, match=r'epoch_3\.pth.* differs by .* more than 1e-04; nothing was written'):
        fold_checkpoint(cfg, checkpoint, tmp_path / 'out' / 'deploy.pth', shape=SIZE)
    assert [p.name for p in tmp_path.iterdir()] == ['epoch_3.pth']


def test_one_wrong_layer_is_refused(tmp_path, monkeypatch):
    """Only the last layer of the head of a detector is wrong."""
    pytest.importorskip('mmdet')
    cfg, right, seen = retinanet(), CoCConv2d.to_conv2d, []
    model = associated(cfg)

    def last_is_wrong(operator):
        conv = right(operator)
        seen.append(operator)
        if len(seen) == len(operators(model)):
            conv.weight.data.copy_(operator.weight)
        return conv

    monkeypatch.setattr(CoCConv2d, 'to_conv2d', last_is_wrong)
    with pytest.raises(FoldCheckError):
        fold_checkpoint(cfg, save(model, tmp_path / 'a.pth'), tmp_path / 'deploy.pth', shape=SIZE)
    assert not (tmp_path / 'deploy.pth').exists()


def test_the_tolerance_decides(tmp_path):
    pytest.importorskip('mmpretrain')
    checkpoint = save(associated(classifier()), tmp_path / 'a.pth')
    with pytest.raises(FoldCheckError, match='more than -1e'):
        fold_checkpoint(classifier(), checkpoint, tmp_path / 'deploy.pth', shape=SIZE, tolerance=-1.0)
    assert fold_checkpoint(classifier(), checkpoint, tmp_path / 'deploy.pth', shape=SIZE, tolerance=1e-3).error < 1e-3


@pytest.mark.parametrize('fails', ['deploy.pth', 'deploy.py'])
def test_a_failed_write_keeps_the_old_files(tmp_path, monkeypatch, fails):
    """The checkpoint and its config are written together or not at all."""
    pytest.importorskip('mmpretrain')
    checkpoint = save(associated(classifier()), tmp_path / 'a.pth')
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'deploy.pth').write_bytes(b'old')

    opened = Path.write_text if fails.endswith('.py') else torch.save

    def full(*arguments, **options):
        opened(*arguments, **options)
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(*((Path, 'write_text') if fails.endswith('.py') else (torch, 'save')), full)
    with pytest.raises(OSError, match='No space left'):
        fold_checkpoint(classifier(), checkpoint, out / 'deploy.pth', shape=SIZE)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {'deploy.pth': b'old'}


@pytest.mark.parametrize('network', ['retinanet', 'classifier', 'segmentor'])
def test_the_networks_are_compared_on_images_too(tmp_path, network):
    cfg = NETWORKS[network]()
    pytest.importorskip(cfg.default_scope)
    mmcv = pytest.importorskip('mmcv')
    rng = np.random.default_rng(0)
    for name in ('a.png', 'b.JPG'):
        mmcv.imwrite(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8), str(tmp_path / 'images' / name))
    (tmp_path / 'images' / 'notes.txt').write_text('no image')
    checkpoint = save(associated(cfg), tmp_path / 'a.pth')
    images = tmp_path / 'images'
    assert fold_checkpoint(cfg, checkpoint, tmp_path / 'd.pth', images=images, shape=SIZE).inputs == 3
    assert fold_checkpoint(cfg, checkpoint, tmp_path / 'd.pth', images=images / 'a.png', shape=SIZE).inputs == 2


def picture(file: Path) -> Path:
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save(file)
    return file


def test_a_part_of_many_images_is_taken_and_told(tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain')
    for number in range(5):
        picture(tmp_path / 'images' / f'{number}.png')
    used, read = [], model_outputs._resized
    monkeypatch.setattr(model_outputs, '_resized', lambda file, *rest: used.append(file.name) or read(file, *rest))
    told = []
    monkeypatch.setattr('mmkerv.deploy.fold.log', told.append)
    checkpoint, images = save(associated(classifier()), tmp_path / 'a.pth'), tmp_path / 'images'
    result = fold_checkpoint(classifier(), checkpoint, tmp_path / 'd.pth', images=images, most=2, shape=(32, 48))
    assert result.inputs == 3 and used == ['0.png', '2.png']
    assert told == [
        f'mmkerv: comparing the raw outputs of the two networks on a random input and 2 of the 5 images of {images}, '
        'each of 32 x 48'
    ]


def test_images_that_are_none_are_refused_before_the_checkpoint_is_read(tmp_path):
    (tmp_path / 'empty').mkdir()
    for name in ('absent', 'empty'):
        with pytest.raises(FileNotFoundError, match=rf"--images '{tmp_path / name}' (does not exist|holds no image)"):
            fold_checkpoint(classifier(), tmp_path / 'absent.pth', tmp_path / 'e.pth', images=tmp_path / name)


def test_a_damaged_image_is_named(tmp_path):
    pytest.importorskip('mmpretrain')
    (tmp_path / 'a.png').write_text('no image')
    checkpoint = save(associated(classifier()), tmp_path / 'a.pth')
    with pytest.raises(ConfigError, match=r"a\.png' cannot be read as an image"):
        fold_checkpoint(classifier(), checkpoint, tmp_path / 'd.pth', images=tmp_path / 'a.png', shape=SIZE)
    assert not (tmp_path / 'd.pth').exists()


def test_images_are_grey_for_a_network_of_one_channel(tmp_path):
    pytest.importorskip('mmpretrain')
    cfg = classifier()
    cfg.model.backbone.in_channels = 1
    cfg.model.data_preprocessor = dict(type='ClsDataPreprocessor', mean=[100.0], std=[50.0])
    file, checkpoint = picture(tmp_path / 'a.png'), save(associated(cfg), tmp_path / 'a.pth')
    assert fold_checkpoint(cfg, checkpoint, tmp_path / 'd.pth', images=file, shape=SIZE).inputs == 2


def test_the_check_computes_each_kernel_once(tmp_path, monkeypatch, recwarn):
    pytest.importorskip('mmpretrain')
    monkeypatch.setattr(generated, 'MANY_EVALUATIONS', 3)
    generated.warn_of_evaluations.cache_clear()
    file, checkpoint = picture(tmp_path / 'images' / '0.png'), save(associated(classifier()), tmp_path / 'a.pth')
    for number in range(1, 4):
        shutil.copy(file, file.with_name(f'{number}.png'))
    fold_checkpoint(classifier(), checkpoint, tmp_path / 'd.pth', images=file.parent, shape=SIZE)
    assert not [warning for warning in recwarn if 'frozen_kernels' in str(warning.message)]


def test_a_network_without_operators_is_refused(tmp_path):
    pytest.importorskip('mmpretrain')
    cfg = classifier()
    cfg.model.backbone = dict(type='ResNet', depth=18, base_channels=8)
    checkpoint = save(associated(cfg), tmp_path / 'a.pth')
    with pytest.raises(FoldCheckError, match=r'a\.pth: the network has no operator that folds'):
        fold_checkpoint(cfg, checkpoint, tmp_path / 'd.pth')
    assert not (tmp_path / 'd.pth').exists()


def test_weights_without_meta_and_with_a_wrappers_prefix_fold(tmp_path):
    pytest.importorskip('mmpretrain')
    state = associated(classifier()).state_dict()
    torch.save({f'module.{key}': value for key, value in state.items()}, tmp_path / 'a.pth')
    result = fold_checkpoint(classifier(), tmp_path / 'a.pth', tmp_path / 'd.pth', shape=SIZE)
    assert result.error < 1e-4 and safe_load(tmp_path / 'd.pth')['meta'].keys() == {'cfg'}


@pytest.mark.parametrize(
    'content, message',
    [
        ({'weight': torch.ones(1)}, 'is not of the network'),
        ([1], 'holds a list, not parameters by name'),
        ({'state_dict': 3}, 'holds a int, not parameters by name'),
    ],
    ids=['another network', 'list', 'number'],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, content, message):
    pytest.importorskip('mmpretrain')
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(CheckpointMismatchError, match=rf'a\.pth.*{message}'):
        fold_checkpoint(classifier(), tmp_path / 'a.pth', tmp_path / 'd.pth')


@pytest.mark.parametrize('start', ['kaiming', 'identity'])
def test_a_folded_checkpoint_is_not_folded_twice(folded, tmp_path, start):
    cfg, _, folder, _ = folded
    again = Config.fromstring(cfg.pretty_text.replace("'kaiming'", f"'{start}'"), '.py')
    arguments = (again, folder / 'out' / 'deploy.pth', tmp_path / 'd.pth')
    if start == 'kaiming':
        with pytest.raises(CheckpointMismatchError, match=r'of the plain \(or folded\) network'):
            fold_checkpoint(*arguments, shape=SIZE)
    else:
        assert max(fold_checkpoint(*arguments, shape=SIZE).associations) == 0


@pytest.mark.parametrize('name', ['DepthwiseSeparableConv', 'SpatiallySeparableConv'])
def test_separable_operators_fold_through_the_deploy_config(name, tmp_path):
    pytest.importorskip('mmpretrain')
    from mmengine.registry import MODELS, init_default_scope

    from mmkerv import ops

    cfg = classifier()
    cfg.model.backbone.conv_cfg = dict(type=name)
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    kind = getattr(ops, f'{name}2d')
    found = [key for key, module in model.named_modules() if isinstance(module, kind)]
    result = fold_checkpoint(cfg, save(model, tmp_path / 'epoch_3.pth'), tmp_path / 'deploy.pth', shape=SIZE)
    assert result.report.replaced == found and len(found) == 8
    assert result.error < 1e-5
    assert 'backbone.layer1.0.conv1.0.weight' in safe_load(tmp_path / 'deploy.pth')['state_dict']


@pytest.mark.parametrize('network', SPLIT)
def test_split_operators_fold_if_asked_to(fold, network):
    """The deploy config names plain layers only, and the result tells what the folded layers cost."""
    pytest.importorskip('mmpretrain')
    cfg, model, folder, result = fold(network)
    found = [name for name, module in model.named_modules() if getattr(module, 'costs_more_folded', False)]
    assert result.report.replaced == found and len(found) >= 2 and not result.report.kept
    assert result.error < 1e-5
    text = (folder / 'out' / 'deploy.py').read_text()
    assert 'mmkerv' not in text and cfg.model.backbone.conv_cfg.type not in text
    folded = safe_load(folder / 'out' / 'deploy.pth')['state_dict']
    for name in found:
        before = sum(p.numel() for p in model.get_submodule(name).own_parameters().values())
        assert result.dearer[name] == (before, folded[f'{name}.weight'].numel()) and before > 0


def test_split_operators_stay_unless_asked_to_fold(tmp_path):
    pytest.importorskip('mmpretrain')
    cfg, out = mobilenet(), tmp_path / 'deploy.pth'
    checkpoint = save(associated(cfg), tmp_path / 'a.pth')
    with pytest.raises(
        FoldCheckError, match=r'no operator that folds; it keeps 17, such as .*--split dense\) folds it$'
    ):
        fold_checkpoint(cfg, checkpoint, out, shape=SIZE)
    assert not out.exists()
    stem = dict(stages=(), kernel_sizes=(3,))
    cfg.model.backbone = dict(
        type='mmkerv.Converted', model=cfg.model.backbone, conv_cfg=dict(type='CoCConv'), where=stem
    )
    checkpoint = save(associated(cfg), tmp_path / 'a.pth')
    result = fold_checkpoint(cfg, checkpoint, out, shape=SIZE)
    assert len(result.report.replaced) == 1 and len(result.report.kept) == 17 and not result.dearer
    text = out.with_suffix('.py').read_text()
    assert 'InceptionDWConv' in text and 'CoCConv' not in text


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_positions_that_are_not_finite_are_refused(tmp_path, value):
    pytest.importorskip('mmpretrain')
    cfg, out = classifier(), tmp_path / 'deploy.pth'
    cfg.model.backbone.conv_cfg = dict(type='DCLSConv', kernel_extent=5)
    model = associated(cfg)
    model.backbone.layer1[0].conv2.positions.data[0, 0, 0, 3] = value
    checkpoint = save(model, tmp_path / 'a.pth')
    with pytest.raises(NonFiniteWeightsError, match=r'a.pth. holds .* in backbone.layer1.0.conv2.positions'):
        fold_checkpoint(cfg, checkpoint, out, shape=SIZE)
    assert [file.name for file in tmp_path.iterdir()] == ['a.pth']


def test_the_config_is_written_in_utf_8(tmp_path, monkeypatch):
    """Whatever the locale: mmengine reads it so, and class names may have any letters."""
    pytest.importorskip('mmpretrain')
    # Instead of the locale's encoding.
    monkeypatch.setattr('io.text_encoding', lambda encoding, *_: encoding or 'ascii')
    cfg = classifier()
    cfg.classes = ('Straße', 'Fluß')
    fold_checkpoint(cfg, save(associated(cfg), tmp_path / 'a.pth'), tmp_path / 'deploy.pth', shape=SIZE)
    assert Config.fromfile(tmp_path / 'deploy.py').classes == ('Straße', 'Fluß')
