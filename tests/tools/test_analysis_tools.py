"""The analysis tools on small networks and data of the three libraries, and their refusals."""

import json
import re
import runpy
import sys
from pathlib import Path
from typing import ClassVar
from unittest import mock

import pytest

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')
pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')
pytest.importorskip('matplotlib')
import mmcv
import numpy as np
import torch
from mmengine.config import Config

from mmkerv.analysis.speed import fused, measured
from mmkerv.datasets.shapes import ShapesSettings, write_shapes
from mmkerv.errors import ConfigError
from mmkerv.ops import switch_to_deploy

ROOT = Path(__file__).resolve().parents[2]
DEMO = {name: f'configs/demo/{name}_coc_shapes.py' for name in ('retinanet', 'mask_rcnn', 'fcn', 'resnet18')}
FOLDERS = {'fcn': 'VOCdevkit/VOC2012'}


def run(tool, *arguments):
    """Run a tool in this process and return its exit code: ``None``, or a message or 2 if it refuses."""
    path = [*sys.path]
    with mock.patch.object(sys, 'argv', [tool, *map(str, arguments)]), mock.patch.object(sys, 'path', path):
        try:
            runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
        except SystemExit as ended:
            return ended.code
    return None


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(folder, ShapesSettings(num_train=6, num_val=6, size=64), progress=False)
    return folder


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    for key in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(key, raising=False)


def data(shapes, name):
    return ('--cfg-options', f'data_root={shapes / FOLDERS.get(name, "")}/')


# analyze_logs


@pytest.fixture
def logs(tmp_path):
    for run_name in ('plain', 'coc'):
        file = tmp_path / run_name / '20250101_000000' / 'vis_data' / 'scalars.json'
        file.parent.mkdir(parents=True)
        lines = [{'lr': 1, 'loss': 3 / n, 'time': n, 'epoch': 1, 'step': n} for n in (1, 2, 3)]
        file.write_text('\n'.join(map(json.dumps, [*lines, {'mIoU': 50.0, 'step': 1}])))
    return tmp_path / 'plain', tmp_path / 'coc'


@pytest.mark.parametrize('command', [('plot_curve',), ()], ids=['mmdet', 'mmseg'])
@pytest.mark.parametrize('suffix', ['.png', '.svg'])
def test_both_grammars_draw_several_runs(command, suffix, logs, tmp_path, capsys):
    out = tmp_path / f'curves{suffix}'
    assert run('analysis_tools/analyze_logs.py', *command, *logs, '--keys', 'loss', 'mIoU', '--out', out) is None
    assert capsys.readouterr().out.splitlines() == [
        'plain: loss: 3 values, last 1 at iteration 3',
        'plain: mIoU: 1 values, last 50 at epoch 1',
        'coc: loss: 3 values, last 1 at iteration 3',
        'coc: mIoU: 1 values, last 50 at epoch 1',
        f'wrote {out}',
    ]
    if suffix == '.png':
        assert np.ptp(mmcv.imread(out)) > 100 and min(mmcv.imread(out).shape[:2]) > 400
    else:
        assert '<svg' in out.read_text()


def test_metric_and_losses_are_drawn_by_default_into_the_work_folder(logs, capsys):
    assert run('analysis_tools/analyze_logs.py', *logs) is None
    assert capsys.readouterr().out.splitlines() == [
        'plain: mIoU: 1 values, last 50 at epoch 1',
        'plain: loss: 3 values, last 1 at iteration 3',
        'coc: mIoU: 1 values, last 50 at epoch 1',
        'coc: loss: 3 values, last 1 at iteration 3',
        f'wrote {logs[0] / "curves.png"}',
    ]
    assert np.ptp(mmcv.imread(logs[0] / 'curves.png')) > 100 and not (logs[1] / 'curves.png').exists()


def test_titles_legends_styles_and_a_backend(logs, tmp_path):
    out = tmp_path / 'a.svg'
    flags = ('--keys', 'loss', '--title', 'two', '--legend', 'one', 'other', '--style', 'whitegrid', '--backend', 'svg')
    assert run('analysis_tools/analyze_logs.py', *logs, *flags, '--out', out) is None
    # The texts of an SVG are comments before their outlines.
    assert all(f'<!-- {text} -->' in out.read_text() for text in ('two', 'one', 'other', 'iteration'))


def test_times_of_runs(logs, capsys):
    assert run('analysis_tools/analyze_logs.py', 'cal_train_time', *logs) is None
    assert capsys.readouterr().out.count('average iter time: 2.5000 s/iter') == 2
    assert run('analysis_tools/analyze_logs.py', 'cal_train_time', logs[0], '--include-outliers') is None
    assert 'average iter time: 2.0000 s/iter' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (('--keys', 'mAP'), "has no key 'mAP'; it has mIoU, lr, loss, time"),
        (('--style', 'whitgrid'), "matplotlib has no style 'whitgrid'; the nearest are whitegrid"),
        (('--backend', 'TkAg'), "--backend 'TkAg' cannot be used here"),
        (('--backend', 'tkagg'), "--backend 'tkagg' cannot be used here"),
    ],
    ids=str,
)
def test_unusable_keys_styles_and_backends_are_refused(flags, words, logs, tmp_path):
    message = run('analysis_tools/analyze_logs.py', logs[0], *flags, '--out', tmp_path / 'a.png')
    assert words in message and '\n' not in message and not (tmp_path / 'a.png').exists()


@pytest.mark.parametrize(
    'flags', [('--out', 'a.txt'), ('--legend', 'a', 'b'), ('--keys',), ('--nonsense', '1')], ids=str
)
def test_wrong_flags_of_logs_are_refused(flags, logs, capsys):
    assert run('analysis_tools/analyze_logs.py', logs[0], *flags) == 2
    assert 'error: ' in capsys.readouterr().err


# print_config


@pytest.mark.parametrize('suffix', ['.py', '.json', '.yml'])
def test_a_config_is_printed_and_saved(suffix, tmp_path, capsys):
    out = tmp_path / f'whole{suffix}'
    flags = ('--cfg-options', 'train_cfg.max_epochs=7', '--save-path', out)
    assert run('misc/print_config.py', 'configs/sequences/ckcnn_smnist.py', *flags) is None
    assert 'max_epochs=7' in capsys.readouterr().out
    saved = Config.fromfile(out)
    assert saved.train_cfg.max_epochs == 7 and saved.model.backbone.type == 'mmkerv.CKCNN'
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_a_missing_config_is_refused():
    assert run('misc/print_config.py', 'absent.py') == (
        "error: config 'absent.py' does not exist; give the path of a config file"
    )
    assert run('misc/print_config.py', 'configs/sequences/ckcnn_smnist.py', '--save-path', 'a.txt') == 2


# browse_dataset


@pytest.mark.parametrize(
    ('name', 'mode'),
    [*((name, mode) for name in DEMO for mode in ('transformed', 'pipeline')), ('fcn', 'original'), ('fcn', 'concat')],
)
def test_samples_are_drawn(name, mode, shapes, tmp_path):
    flags = ('-o', tmp_path, '-n', 1, '-m', mode, '-p', 'train', *data(shapes, name))
    assert run('analysis_tools/browse_dataset.py', DEMO[name], *flags) is None
    (file,) = tmp_path.iterdir()
    image = mmcv.imread(file)
    if mode in ('concat', 'pipeline'):
        assert image.shape[1] > 1.3 * image.shape[0], 'images beside each other'
    assert np.ptp(image) > 100


@pytest.mark.parametrize('mode', ['original', 'transformed'])
@pytest.mark.parametrize('name', ['retinanet', 'fcn'])
def test_annotations_are_drawn_in_the_right_place(name, mode, shapes):
    """Test pipelines load annotations after the resize, in the size of the original image."""
    from mmkerv.analysis.browse import pictures, stages
    from mmkerv.analysis.speed import data_sets
    from mmkerv.engine.config.read import load_config

    cfg = load_config(DEMO[name], {'data_root': f'{shapes / FOLDERS.get(name, "")}/'})
    first = stages(data_sets(cfg, 'val')[0], 0)[0]
    picture = next(pictures(cfg, 'val', mode)).image
    assert picture.shape == first.image.shape == (64, 64, 3)
    changed = np.abs(picture.astype(int) - first.image).sum(2) > 60
    if name == 'retinanet':
        for box in first.sample.gt_instances.bboxes.tensor.round().int().tolist():
            left, top, right, bottom = (min(side, 63) for side in box)
            assert changed[top : bottom + 1, [left, right]].mean() > 0.3, 'the sides of the box'
    else:
        assert changed[np.asarray(first.sample.gt_sem_seg.data[0]) > 0].mean() > 0.5


def test_pictures_never_replace_the_data(shapes, capsys):
    images = shapes / FOLDERS['fcn'] / 'JPEGImages'
    before = {file.name: file.read_bytes() for file in images.iterdir()}
    status = run('analysis_tools/browse_dataset.py', DEMO['fcn'], '-o', images, '-n', 1, *data(shapes, 'fcn'))
    assert f"--output-dir '{images}' holds the data, such as " in str(status)
    assert {file.name: file.read_bytes() for file in images.iterdir()} == before


@pytest.mark.parametrize('suffix', ['pgm', 'jfif', 'gif'])
def test_pictures_of_any_file_can_be_written(suffix, tmp_path):
    from PIL import Image

    from mmkerv.engine.config.read import load_config

    image = tmp_path / 'data' / 'train' / 'a' / f'1.{suffix}'
    image.parent.mkdir(parents=True)
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(image, {'jfif': 'jpeg'}.get(suffix))
    cfg = load_config(DEMO['resnet18'])
    cfg.train_dataloader = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(
            type='CustomDataset',
            data_root=str(tmp_path / 'data' / 'train'),
            extensions=[f'.{suffix}'],
            pipeline=[dict(type='LoadImageFromFile', imdecode_backend='pillow'), dict(type='PackInputs')],
        ),
    )
    cfg.dump(tmp_path / 'c.py')
    assert run('analysis_tools/browse_dataset.py', tmp_path / 'c.py', '-o', tmp_path / 'out') is None
    assert [file.name for file in (tmp_path / 'out').iterdir()] == ['1.png']


def test_images_with_the_same_name_are_all_written(shapes, tmp_path, monkeypatch):
    from mmkerv.analysis import browse

    same = browse.Picture('a.jpg', np.zeros((4, 4, 3), np.uint8))
    monkeypatch.setattr(browse, 'pictures', lambda *_: iter([same] * 3))
    assert run('analysis_tools/browse_dataset.py', DEMO['fcn'], '-o', tmp_path, *data(shapes, 'fcn')) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ['2_a.jpg', '3_a.jpg', 'a.jpg']


def test_without_a_display_pictures_are_written_to_files(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run('analysis_tools/browse_dataset.py', ROOT / DEMO['fcn'], '-n', 1, *data(shapes, 'fcn')) is None
    folder = Path('work_dirs', 'fcn_coc_shapes', 'browse_train')
    assert f'no display: pictures go to {folder}' in capsys.readouterr().out
    assert len(list(folder.iterdir())) == 1
    assert run('analysis_tools/browse_dataset.py', ROOT / DEMO['fcn'], '--not-show', *data(shapes, 'fcn')) is None
    assert '6 samples of the train data\n' in capsys.readouterr().out and len(list(folder.iterdir())) == 1


def test_lists_of_loaders_are_drawn_and_timed(shapes, tmp_path, capsys):
    config = tmp_path / 'two.py'
    config.write_text(
        f'_base_ = {str(ROOT / DEMO["fcn"])!r}\n'
        'second = _base_.val_dataloader\n'
        "second['dataset']['ann_file'] = 'ImageSets/Segmentation/train.txt'\n"
        'val_dataloader = [_base_.test_dataloader, second]\n'
    )
    flags = ('-p', 'val', '-n', 8, '-o', tmp_path / 'out', *data(shapes, 'fcn'))
    assert run('analysis_tools/browse_dataset.py', config, *flags) is None
    assert len(list((tmp_path / 'out').iterdir())) == 8, '6 of the first loader and 2 of the second'
    for task in ('dataset', 'dataloader'):
        flags = ('--task', task, '--dataset-type', 'val', '--max-iter', 9, '--num-warmup', 1)
        assert run('analysis_tools/benchmark.py', config, *flags, *data(shapes, 'fcn')) is None
    assert 'dataloader: ' in capsys.readouterr().out


def test_missing_data_is_refused(tmp_path):
    message = run('analysis_tools/browse_dataset.py', DEMO['fcn'], '--cfg-options', f'data_root={tmp_path / "no"}')
    assert 'does not exist' in message and 'data_root=DIR' in message


# benchmark


@pytest.mark.parametrize('name', ['retinanet', 'fcn', 'resnet18'])
def test_inference_of_each_library_is_timed(name, shapes, tmp_path, capsys):
    flags = ('--max-iter', 3, '--num-warmup', 1, '--log-interval', 2, '--repeat-num', 2, '--work-dir', tmp_path)
    assert run('analysis_tools/benchmark.py', DEMO[name], '--device', 'cpu', *flags, *data(shapes, name)) is None
    out = capsys.readouterr().out
    assert out.count('2 of 3 images: ') == out.count('3 of 3 images: ') == 2 and 'inference: images ' in out
    result = json.loads((tmp_path / 'benchmark_inference.json').read_text())
    assert len(result['seconds']) == 2 and min(result['seconds']) > 0 and result['checkpoint'] is None
    assert result['rates'] == pytest.approx([1 / seconds for seconds in result['seconds']])


@pytest.mark.parametrize('task', ['dataloader', 'dataset'])
def test_data_is_timed(task, shapes, capsys):
    flags = ('--task', task, '--dataset-type', 'train', '--max-iter', 14, '--num-warmup', 2)
    options = (*data(shapes, 'fcn'), 'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False')
    assert run('analysis_tools/benchmark.py', DEMO['fcn'], *flags, *options) is None
    assert f'{task}: ' in capsys.readouterr().out


def test_fusing_unfolded_operators_is_refused(shapes):
    message = run('analysis_tools/benchmark.py', DEMO['resnet18'], '--fuse-conv-bn', *data(shapes, 'resnet18'))
    for words in ('17 operators that are not folded', 'backbone.conv1 (CoCConv2d)', 'reparameterize_model.py'):
        assert words in message


def test_a_folded_network_is_fused():
    from tests.engine.small_networks import associated, classifier

    model = associated(classifier())
    with pytest.raises(ConfigError, match='not folded'):
        fused(model)
    switch_to_deploy(model)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)[0]
        assert torch.allclose(fused(model)(x)[0], expected, atol=1e-4)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.backbone.modules())


def test_benchmark_takes_the_grammar_of_mmsegmentation(shapes):
    """CONFIG CHECKPOINT --repeat-times."""
    message = run('analysis_tools/benchmark.py', DEMO['fcn'], 'absent.pth', '--repeat-times', 2, '--log-interval', 5)
    assert message.startswith('error: ') and 'absent.pth' in message


@pytest.mark.parametrize(
    'flags',
    [
        ('a.pth', '--checkpoint', 'b.pth'),
        ('--task', 'dataset', '--fuse-conv-bn'),
        ('--max-iter', '3', '--num-warmup', '3'),
        ('--repeat-num', '0'),
    ],
    ids=str,
)
def test_wrong_flags_of_benchmarks_are_refused(flags, capsys):
    assert run('analysis_tools/benchmark.py', DEMO['fcn'], *flags) == 2
    assert 'error: ' in capsys.readouterr().err


def test_only_the_work_is_timed(monkeypatch):
    """Reading is timed only without work; the warm-up is never timed."""
    from mmkerv.analysis import speed

    clock = [0.0]

    def items():
        for cost in (100.0, 1.0, 3.0):
            clock[0] += cost
            yield cost

    def work(item):
        clock[0] += 10 * item

    monkeypatch.setattr(speed.time, 'perf_counter', lambda: clock[0])
    assert measured(items, warmup=1, most=3).seconds == [2.0]
    assert measured(items, work, warmup=1, most=3, runs=2).seconds == [20.0, 20.0]
    assert measured(items, warmup=0, most=6).seconds == [104 / 3]
    told = []
    measured(items, warmup=1, most=3, tell=lambda number, rate: told.append((number, rate)), interval=2)
    assert told == [(2, 1.0), (3, 0.5)]
    with pytest.raises(ConfigError, match='empty'):
        measured(list, warmup=0)


# kernel_report, get_flops


@pytest.mark.parametrize(
    ('config', 'size', 'shape'),
    [('mnist/lenet5_kerv.py', (28, 28), '(1, 28, 28)'), ('sequences/ckcnn_smnist.py', (1, 64), '(1, 1, 64)')],
)
def test_channels_of_the_counted_image(config, size, shape, capsys):
    assert run('analysis_tools/get_flops.py', ROOT / 'configs' / config, '--shape', *size) is None
    assert f'Input shape: {shape}\n' in capsys.readouterr().out


def test_reports_agree_with_get_flops(tmp_path, capsys):
    assert run('analysis_tools/get_flops.py', DEMO['resnet18'], '--shape', 32, 64) is None
    printed, out = capsys.readouterr().out, tmp_path / 'report.json'
    assert run('analysis_tools/kernel_report.py', DEMO['resnet18'], '--shape', 32, 64, '--out', out) is None
    content = json.loads(out.read_text())
    total = content['total']
    assert f'Flops of an image: {total["macs"] / 1e6:.3f}M' in printed
    assert f'Params: {total["parameters"] / 1e6:.3f}M' in printed
    assert content['shape'] == [32, 64] and len(content['layers']) == 21
    summary = f'21 layers, {total["parameters"]} parameters, {total["macs"]} MACs; wrote {out}'
    assert summary in capsys.readouterr().out
    fields = [layer['field'] for layer in content['layers'] if layer['kernel'] == '3x3']
    assert fields[-1] == '435x435', 'of ResNet-18'


def test_flops_of_the_images_of_the_data(shapes, capsys):
    assert run('analysis_tools/get_flops.py', DEMO['resnet18'], '--num-images', 3, *data(shapes, 'resnet18')) is None
    assert 'the mean of 3 images' in capsys.readouterr().out


def test_sizes_come_from_the_test_pipeline(tmp_path, capsys):
    assert run('analysis_tools/get_flops.py', DEMO['resnet18']) is None
    assert 'Input shape: (3, 64, 64)\n' in capsys.readouterr().out
    assert run('analysis_tools/kernel_report.py', DEMO['resnet18'], '--out', tmp_path / 'report.json') is None
    assert json.loads((tmp_path / 'report.json').read_text())['shape'] == [64, 64]


@pytest.mark.parametrize('operator', ['coc', 'kerv'])
def test_what_folding_gives_is_told_of_operators_that_fold(operator, capsys):
    config = f'configs/imagenet/resnet18_{operator}.py'
    assert run('analysis_tools/get_flops.py', config, '--shape', 32) is None
    assert capsys.readouterr().out.count('after folding') == (2 if operator == 'coc' else 0)


@pytest.mark.parametrize(('flags', 'rows'), [((), 10), (('--all',), 21)], ids=['short', 'all'])
def test_reports_are_short_unless_asked(flags, rows, capsys):
    assert run('analysis_tools/kernel_report.py', DEMO['resnet18'], *flags) is None
    out = capsys.readouterr().out
    assert len(re.findall(r'^\| (backbone|head)\.', out, re.MULTILINE)) == rows
    assert ('every layer as ' in out) == bool(flags)
    assert ('These are the 10 of 17 operators that cost most; 11 other layers are left out' in out) == (not flags)
    assert re.search(r'^\| now +\| 2\.8', out, re.MULTILINE), 'the whole network is counted'


# kernel_statistics


def test_statistics_of_a_start_and_of_a_checkpoint(tmp_path, capsys):
    from mmkerv.cli.analysis_tools.kernel_statistics import main
    from mmkerv.deploy.trained_model import load_trained

    small = (
        '--cfg-options',
        'model.backbone.base_channels=8',
        'model.backbone.stem_channels=8',
        'model.head.in_channels=64',
    )
    options = dict(pair.split('=') for pair in small[1:])
    _, model = load_trained(DEMO['resnet18'], None, {key: int(value) for key, value in options.items()})
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'a.pth')
    out = [tmp_path / f'statistics.{kind}' for kind in ('md', 'csv', 'json', 'png')]
    main([DEMO['resnet18'], '--compare', str(tmp_path / 'a.pth'), '--out', *map(str, out), *small])
    assert f'20 layers, 0 flagged, 0 without a kernel; wrote {out[0]}' in capsys.readouterr().out
    content = json.loads(out[2].read_text())
    assert [layer['name'] for layer in content['layers']][:2] == ['backbone.conv1', 'backbone.layer1.0.conv1']
    assert content['layers'][0]['operator'] == 'CoCConv2d' and content['layers'][0]['distance'] > 0
    sizes = [row['name'] for row in content['shifts']][:3]
    assert sizes == ['7x7', '3x3', '1x1'] and content['shifts'][3]['distance'] > 0
    text = out[0].read_text()
    assert (
        text.startswith('# resnet18_coc_shapes, at the start, seed 0')
        and '## Against resnet18_coc_shapes, a.pth' in text
    )
    assert len(out[1].read_text().splitlines()) == 21 and np.ptp(mmcv.imread(out[3])) > 100
    # The same seed, the same start; a config is compared as a network of its own.
    main([DEMO['resnet18'], '--compare', DEMO['resnet18'], *small])
    printed = capsys.readouterr().out
    assert re.search(r'\| backbone\.conv1 +\| 24 +\| 0 ', printed.split('## Against')[1])


@pytest.mark.parametrize(
    ('tool', 'flags'),
    [
        ('kernel_statistics', ('--out', 'a.md', 'a.xls')),
        ('kernel_statistics', ('--compare', 'a.pth', 'b.pth')),
        ('kernel_statistics', ('--compare', 'a.py', 'b.pth', 'c.pth')),
        ('kernel_report', ('--shape', '0')),
        ('kernel_report', ('--out', 'a.xls')),
        ('get_flops', ('--num-images', '0')),
        ('get_flops', ('--num-images', '1', '--shape', '8')),
    ],
    ids=str,
)
def test_wrong_flags_of_reports_are_refused(tool, flags, capsys):
    assert run(f'analysis_tools/{tool}.py', DEMO['fcn'], *flags) == 2
    assert 'error: ' in capsys.readouterr().err


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    torch.save({'state_dict': {'fc.weight': torch.ones(2, 2)}}, tmp_path / 'other.pth')
    message = run('analysis_tools/kernel_report.py', DEMO['resnet18'], '--checkpoint', tmp_path / 'other.pth')
    assert 'is not of the network of the config' in message


def test_colours_of_images_in_memory(tmp_path):
    """CIFAR's images are in RGB, those of files in BGR."""
    from mmengine.dataset import Compose
    from mmpretrain.datasets.transforms import PackInputs

    from mmkerv.analysis.browse import stages

    class Held:
        metainfo: ClassVar[dict] = {}

        def __init__(self, *loading):
            self.pipeline = Compose([*loading, PackInputs()])

        def get_data_info(self, index):
            return {'img': np.full((4, 4, 3), (200, 0, 0), np.uint8), 'gt_label': 0}

        def __getitem__(self, index):
            return self.pipeline(self.get_data_info(index))

    assert [stage.image[0, 0].tolist() for stage in stages(Held(), 0)] == [[200, 0, 0]] * 2
