"""Configs for data of one's own: written, read, trained and evaluated, in the three tasks."""

import json
from pathlib import Path

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

from mmkerv.cli import new
from mmkerv.datasets.shapes import ShapesSettings, write_shapes
from mmkerv.engine.config.read import load_config
from mmkerv.errors import ConfigError, DataError
from tests.tool_process import run_tool

CLASSES = ('circle', 'rectangle', 'triangle')
LOADING = ['--cfg-options', *(f'{phase}_dataloader.num_workers=0' for phase in ('train', 'val', 'test'))]
LOADING += [f'{phase}_dataloader.persistent_workers=False' for phase in ('train', 'val', 'test')]


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('data')
    settings = dict(num_train=8, num_val=4, size=64)
    write_shapes(folder / 'scenes', ShapesSettings(**settings, layouts=['coco', 'voc']), progress=False)
    write_shapes(folder / 'pictures', ShapesSettings(**settings, layouts=['imagenet']), progress=False)
    return folder


def sources(task: str, data: Path) -> list[str]:
    return ['--data', str(data / ('pictures' if task == 'cls' else 'scenes'))]


def written(tmp_path: Path, task: str, *flags: object):
    out = tmp_path / f'{task}.py'
    new.main(['--task', task, '--out', str(out), *map(str, flags)])
    return load_config(str(out))


def test_detection(data, tmp_path, capsys):
    cfg = written(tmp_path, 'det', *sources('det', data))
    assert cfg.model.bbox_head.num_classes == 3 and cfg.metainfo.classes == CLASSES
    assert cfg.model.backbone.init_cfg.checkpoint == 'torchvision://resnet50' and cfg.model.backbone.frozen_stages == 1
    assert cfg.scale == (64, 64) and cfg.train_dataloader.batch_size == 2
    assert cfg.val_evaluator.ann_file == str(data / 'scenes' / 'annotations' / 'instances_val2017.json')
    assert cfg.train_dataloader.dataset.data_prefix.img == 'train2017/'
    text = capsys.readouterr().out
    assert 'anchors: the smallest anchors are' in text and 'size: 64, by the median' in text
    assert f'next: mmkerv plan {tmp_path / "det.py"} ' in text
    assert f'\n      mmkerv train {tmp_path / "det.py"}\n' in text


def test_segmentation(data, tmp_path, capsys):
    names = ['--classes', 'background', *CLASSES]
    cfg = written(tmp_path, 'seg', *sources('seg', data), *names, '--size', 32, '--depth', 18)
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 4
    assert cfg.metainfo.palette == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert cfg.model.data_preprocessor.size == cfg.crop_size == (32, 32)
    assert cfg.model.backbone.init_cfg.checkpoint == 'torchvision://resnet18'
    assert 'size: 32, as asked for' in capsys.readouterr().out


def test_classification(data, tmp_path):
    cfg = written(tmp_path, 'cls', *sources('cls', data), '--size', 96)
    assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes == 3
    assert cfg.train_dataloader.dataset.metainfo.classes == CLASSES
    assert cfg.train_pipeline[1].scale == 96 and cfg.test_pipeline[2].crop_size == 96
    assert cfg.model.backbone.init_cfg.checkpoint == 'torchvision://resnet18'


@pytest.mark.parametrize('task', ['det', 'seg', 'cls'])
def test_config_trains_and_is_evaluated(task, data, tmp_path):
    out = tmp_path / 'mine.py'
    flags = ['--no-pretrained', '--depth', 18, '--operator', 'coc', '--out', out]
    done = run_tool('tools/misc/new_config.py', '--task', task, *sources(task, data), *flags)
    assert done.status == 0, done.err
    work = tmp_path / 'work'
    small = ['--img-size', 64, '--max-iters', 2]
    done = run_tool('tools/train.py', out, '--work-dir', work, *small, *LOADING)
    assert done.status == 0, done.err[-3000:]
    assert '--max-iters 2: ' in done.out + done.err
    checkpoint = work / 'iter_2.pth'
    done = run_tool('tools/test.py', out, checkpoint, '--work-dir', work, *LOADING)
    assert done.status == 0, done.err[-3000:]
    assert load_config(str(out)).model.backbone.conv_cfg.type == 'mmkerv.CoCConv'


def test_operators(data, tmp_path):
    from mmengine.registry import MODELS

    from mmkerv.engine.scope import enter_scope

    # It starts at random: layers that upstream freezes have to train.
    cfg = written(tmp_path, 'det', *sources('det', data), '--operator', 'coc:super_init=kaiming')
    assert cfg.model.backbone.conv_cfg.super_init == 'kaiming' and cfg.model.backbone.frozen_stages == -1
    cfg = written(tmp_path, 'det', *sources('det', data), '--operator', 'dcls:where.stages=(3,4)', '--force')
    assert cfg.model.backbone['where'] == dict(stages=(3, 4)) and cfg.model.backbone.frozen_stages == 1
    enter_scope(cfg)
    assert 'DCLSConv' in str(MODELS.build(cfg.model).backbone.layer4)
    with pytest.raises(ConfigError, match='does not fit the layers of a ResNet'):
        new.operator('inceptiondw')
    with pytest.raises(ConfigError, match='no operator is called'):
        new.operator('cocc')


def test_from_scratch(data, tmp_path):
    cfg = written(tmp_path, 'det', *sources('det', data), '--no-pretrained')
    backbone = cfg.model.backbone
    assert backbone.init_cfg is None and backbone.frozen_stages == -1 and backbone.norm_eval is False
    assert cfg.optim_wrapper.optimizer.type == 'AdamW'
    cfg = written(tmp_path, 'cls', *sources('cls', data), '--no-pretrained')
    assert cfg.model.backbone.type == 'ResNet_CIFAR' and 'init_cfg' not in cfg.model.backbone


def test_split_is_written_and_read(data, tmp_path):
    from mmengine.registry import DATASETS

    from mmkerv.engine.scope import enter_scope

    annotations = data / 'scenes' / 'annotations' / 'instances_train2017.json'
    cfg = written(tmp_path, 'det', '--data', annotations, '--val-fraction', 0.25)
    held = json.loads((tmp_path / 'det_split' / 'val.json').read_text())
    assert len(held['images']) == 2 and cfg.val_evaluator.ann_file == str(tmp_path / 'det_split' / 'val.json')
    first = (tmp_path / 'det_split' / 'val.json').read_bytes()
    written(tmp_path, 'det', '--data', annotations, '--val-fraction', 0.25, '--force')
    assert (tmp_path / 'det_split' / 'val.json').read_bytes() == first
    enter_scope(cfg)
    assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 6

    cfg = written(tmp_path, 'cls', '--data', data / 'pictures' / 'train')
    enter_scope(cfg)
    train, val = (DATASETS.build(cfg[f'{phase}_dataloader'].dataset) for phase in ('train', 'val'))
    assert len(train) == 5 and len(val) == 3 and sorted(val.get_gt_labels()) == [0, 1, 2]
    assert Path(val.get_data_info(0)['img_path']).is_file()

    voc = data / 'scenes' / 'VOCdevkit' / 'VOC2012'
    places = ['--images', voc / 'JPEGImages', '--masks', voc / 'SegmentationClass']
    cfg = written(tmp_path, 'seg', *sources('seg', data), *places)
    enter_scope(cfg)
    assert [len(DATASETS.build(cfg[f'{phase}_dataloader'].dataset)) for phase in ('train', 'val')] == [10, 2]


def test_faults_are_all_told_and_nothing_is_written(data, tmp_path, capsys):
    content = json.loads((data / 'scenes' / 'annotations' / 'instances_train2017.json').read_text())
    content['images'][0]['width'] += 1
    content['annotations'][0]['category_id'] = 9
    content['annotations'][1]['bbox'][2] = 0
    file = tmp_path / 'train.json'
    file.write_text(json.dumps(content))
    flags = ['--data', file, '--images', data / 'scenes' / 'train2017']
    with pytest.raises(DataError, match='2 kinds of faults'):
        written(tmp_path, 'det', *flags)
    text = capsys.readouterr().out
    assert text.count('fault: 1 ') == 2 and 'warning: 1 boxes are smaller than a pixel' in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ['train.json']
    assert written(tmp_path, 'det', *flags, '--write-anyway').model.bbox_head.num_classes == 3


def test_an_existing_config_is_kept(data, tmp_path):
    (tmp_path / 'cls.py').write_text('mine = 1\n')
    with pytest.raises(FileExistsError, match='--force'):
        written(tmp_path, 'cls', *sources('cls', data))
    assert (tmp_path / 'cls.py').read_text() == 'mine = 1\n'
    assert written(tmp_path, 'cls', *sources('cls', data), '--force').metainfo.classes == CLASSES


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--task', 'cls', '--classes', 'a'], '--classes is for --task seg, got --task cls'),
        (['--task', 'det', '--masks', 'a'], '--masks is for --task seg, got --task det'),
        (['--task', 'det', '--size', '5'], '--size must be from 32 to 4096, got 5'),
        (['--task', 'det', '--val-fraction', '1'], '--val-fraction must be between 0 and 1'),
        (['--task', 'det', '--images', 'a', 'b', 'c'], '--images takes one folder'),
        (['--task', 'det', '--out', 'a.txt'], '--out must end in .py'),
    ],
)
def test_flags(flags, words, capsys):
    with pytest.raises(SystemExit):
        new.parse_args([*flags, '--data', 'data'])
    assert words in capsys.readouterr().err
    assert new.parse_args(['--task', 'det', '--data', 'my data']).out == Path('det_my_data.py')
