"""Predictions of detectors, segmentors and classifiers on image files, as a user runs them."""

import json
import re
import runpy
import shutil
import sys
from pathlib import Path
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
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from PIL import Image
from pycocotools import mask as coco_masks

from mmkerv.analysis.predictions import distinct_names, none_kept, predictions
from mmkerv.datasets.shapes import ShapesSettings, write_shapes
from mmkerv.deploy.fold import fold_checkpoint
from mmkerv.deploy.trained_model import built, load_trained
from mmkerv.engine.config.patches import patched
from mmkerv.engine.config.read import load_config
from mmkerv.errors import UnsafeCheckpointError
from tests.malicious_files import execute, hidden, write
from tests.tool_process import run_tool

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {name: f'configs/demo/{name}_shapes.py' for name in ('mask_rcnn', 'fcn_coc', 'resnet18_coc', 'retinanet')}
CLASSES = ['circle', 'rectangle', 'triangle']


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope='module')
def images(tmp_path_factory) -> list[Path]:
    """Three scenes of shapes, the last of another size."""
    folder = tmp_path_factory.mktemp('data')
    write_shapes(folder / 'shapes', ShapesSettings(num_train=2, num_val=3, size=64, layouts=('coco',)), progress=False)
    files = sorted((folder / 'shapes' / 'val2017').iterdir())
    with Image.open(files[2]) as image:
        wide = image.resize((96, 48))
    wide.save(files[2])
    return files


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """Return the config of a demo network, on first use with a checkpoint of random weights."""
    folder = tmp_path_factory.mktemp('networks')
    made = {}

    def save(name):
        if name not in made:
            cfg = load_config(str(ROOT / CONFIGS[name]))
            if cfg.get('data_preprocessor'):
                cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
            torch.manual_seed(0)
            model = built(cfg)
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d) and name != 'mask_rcnn':
                    # So that the classes differ from pixel to pixel.
                    module.running_var.fill_(0.05)
            if name == 'mask_rcnn':
                # Instances of every class, rather than background.
                head = model.roi_head.bbox_head.fc_cls
                head.weight.data.mul_(0.1)
                head.bias.data[-1] = -3
            classes = CLASSES if name != 'fcn_coc' else ['background', *CLASSES]
            made[name] = folder / f'{name}.pth'
            content = {'meta': {'dataset_meta': {'classes': classes}}, 'state_dict': model.state_dict()}
            torch.save(content, made[name])
        return ROOT / CONFIGS[name], made[name]

    return save


def run(*arguments):
    """Run the tool in this process and return its exit status: ``None``, or a message or 2 if it refuses."""
    words, path = ['tools/predict.py', *map(str, arguments)], [*sys.path]
    with mock.patch.object(sys, 'argv', words), mock.patch.object(sys, 'path', path), patched():
        try:
            runpy.run_path(str(ROOT / words[0]), run_name='__main__')
        except SystemExit as ended:
            return ended.code
    return None


def records(out):
    return json.loads((out / 'predictions.json').read_text())


def read(out, file):
    return np.asarray(Image.open(out / file))


def test_boxes_and_masks_are_those_of_upstream(saved, images, tmp_path, capsys):
    from mmdet.apis import inference_detector, init_detector

    config, checkpoint = saved('mask_rcnn')
    flags = ('--out-dir', tmp_path, '--score-thr', 0.1, '--device', 'cpu')
    assert run(config, checkpoint, images[0].parent, *flags) is None
    content = records(tmp_path)
    assert content['classes'] == CLASSES and content['unreadable'] == []
    assert [line['image'] for line in content['images']] == [str(file) for file in images]
    with patched():
        model = init_detector(str(config), str(checkpoint), device='cpu')
        for file, line in zip(images, content['images']):
            expected = inference_detector(model, str(file)).pred_instances
            expected = expected[expected.scores >= 0.1]
            assert len(line['instances']) == len(expected) > 0
            image = mmcv.imread(file)
            assert (line['height'], line['width']) == image.shape[:2]
            for found, label, score, box, mask in zip(
                line['instances'], expected.labels, expected.scores, expected.bboxes, expected.masks
            ):
                assert (found['label'], found['class']) == (int(label), CLASSES[int(label)])
                assert found['score'] == pytest.approx(float(score), abs=1e-4)
                assert found['bbox'] == pytest.approx(box.tolist(), abs=1e-2)
                decoded = coco_masks.decode(found['mask'])
                assert decoded.shape == image.shape[:2] and (decoded != mask.numpy()).mean() < 1e-3
            picture, factor = read(tmp_path, line['picture']), -(-224 // min(image.shape[:2]))
            large = image[..., ::-1].repeat(factor, 0).repeat(factor, 1)
            assert picture.shape == large.shape and (picture != large).any(-1).mean() > 0.05
            # The sides of a box are where the image has it.
            left, top, right, _ = (factor * side for side in line['instances'][0]['bbox'])
            changed = (picture != large).any(-1)[round(min(max(top, 0), len(large) - 1))]
            assert changed[round(max(left, 0)) : round(right)].mean() > 0.5
    assert re.search(rf'{images[0].name}: \d+ ({"|".join(CLASSES)})', capsys.readouterr().out)


def test_what_is_below_the_threshold_is_told(saved, images, tmp_path, capsys):
    assert run(*saved('mask_rcnn'), images[0], '--out-dir', tmp_path, '--score-thr', 1) is None
    (found,) = re.findall(
        rf'{images[0]}: nothing above --score-thr 1 \(highest score (0\.\d+)\)', capsys.readouterr().out
    )
    assert run(*saved('mask_rcnn'), images[0], '--out-dir', tmp_path, '--score-thr', 0) is None
    scores = [instance['score'] for instance in records(tmp_path)['images'][0]['instances']]
    assert float(found) == pytest.approx(max(scores), abs=1e-3)


def test_a_network_that_finds_no_instance_is_told():
    sample = DetDataSample(pred_instances=InstanceData(scores=torch.zeros(0)))
    assert none_kept(sample, '--score-thr 0.3') == (
        'nothing above --score-thr 0.3 (the network finds no instance at all)'
    )


@pytest.mark.parametrize('folded', [False, True], ids=['trained', 'folded'])
def test_maps_are_those_of_upstream(folded, saved, images, tmp_path):
    from mmseg.apis import inference_model, init_model

    config, checkpoint = saved('fcn_coc')
    with patched():
        model = init_model(str(config), str(checkpoint), device='cpu')
        expected = [inference_model(model, str(file)).pred_sem_seg.data[0].numpy() for file in images]
    if folded:
        fold_checkpoint(load_config(str(config)), checkpoint, tmp_path / 'deploy.pth', shape=(64, 64))
        config, checkpoint = tmp_path / 'deploy.py', tmp_path / 'deploy.pth'
        assert 'mmkerv' not in config.read_text()
    assert run(config, checkpoint, *images, '--out-dir', tmp_path / 'out', '--device', 'cpu') is None
    shown = set()
    for file, line, classes in zip(images, records(tmp_path / 'out')['images'], expected):
        found = read(tmp_path / 'out', line['map'])
        assert found.shape == classes.shape == mmcv.imread(file).shape[:2]
        assert (found != classes).mean() < 5e-3
        assert {a['label']: a['pixels'] for a in line['areas']} == pytest.approx(
            {label: (found == label).mean() for label in np.unique(found).tolist()}, abs=1e-4
        )
        factor = -(-224 // min(classes.shape))
        assert read(tmp_path / 'out', line['picture']).shape == (
            classes.shape[0] * factor,
            classes.shape[1] * factor,
            3,
        )
        shown |= {area['class'] for area in line['areas']}
    assert len(shown) > 1 and shown <= {'background', *CLASSES}


def test_probabilities_are_those_of_upstream(saved, images, tmp_path):
    from mmpretrain import ImageClassificationInferencer

    config, checkpoint = saved('resnet18_coc')
    flags = ('--out-dir', tmp_path, '--topk', 2, '--no-pictures', '--device', 'cpu')
    assert run(config, checkpoint, f'{images[0].parent}/*.jpg', *flags) is None
    with patched():
        inferencer = ImageClassificationInferencer(str(config), pretrained=str(checkpoint), device='cpu')
        expected = inferencer([str(file) for file in images])
    for line, upstream in zip(records(tmp_path)['images'], expected):
        assert [found['class'] for found in line['classes']] == [
            CLASSES[label] for label in np.argsort(-upstream['pred_scores'])[:2]
        ]
        probabilities = [found['probability'] for found in line['classes']]
        assert probabilities == pytest.approx(sorted(upstream['pred_scores'])[:0:-1], abs=1e-4)
        assert sum(probabilities) <= 1 and 'picture' not in line
    assert [p.name for p in tmp_path.iterdir()] == ['predictions.json']


def test_work_folder_in_place_of_config_and_checkpoint(tmp_path):
    """The commands that a user types: data, training, prediction."""
    data, work = tmp_path / 'data', tmp_path / 'work'
    settings = ShapesSettings(num_train=8, num_val=4, size=32, layouts=('imagenet',))
    write_shapes(data, settings, progress=False)
    options = (f'data_root={data}', 'train_cfg.max_epochs=1')
    trained = run_tool('tools/train.py', CONFIGS['resnet18_coc'], '--work-dir', work, '--cfg-options', *options)
    assert trained.status == 0, trained.err
    done = run_tool('tools/predict.py', work, data / 'val' / 'circle', '--device', 'cpu')
    assert done.status == 0, done.err
    assert f'{work}: config resnet18_coc_shapes.py, checkpoint ' in done.err
    content = records(work / 'predictions')
    # The names come from the checkpoint: the config has none.
    assert content['classes'] == CLASSES and content['images']
    for line in content['images']:
        probabilities = [found['probability'] for found in line['classes']]
        assert len(probabilities) == 3 and sum(probabilities) == pytest.approx(1, abs=1e-3)
        assert min(read(work / 'predictions', line['picture']).shape[:2]) >= 224, 'small images are enlarged'


def test_batches_hold_images_of_one_size(saved, images):
    cfg, model = load_trained(*map(str, saved('mask_rcnn')))
    step, batches = model.test_step, []

    def recorded(data):
        batches.append([tuple(image.shape) for image in data['inputs']])
        return step(data)

    model.test_step = recorded
    files = [*images, images[0]]
    together = list(predictions(cfg, model, files, 3))
    assert [len(batch) for batch in batches] == [2, 1, 1] and all(len(set(batch)) == 1 for batch in batches)
    assert [found.file for found in together] == files
    for found in together:
        (alone,) = predictions(cfg, model, [found.file])
        scores = [p.sample.pred_instances.scores for p in (found, alone)]
        assert len(scores[0]) > 3
        torch.testing.assert_close(*(part.sort(descending=True)[0][:3] for part in scores), rtol=1e-3, atol=1e-4)


def test_the_tool_takes_a_batch(saved, images, tmp_path):
    flags = ('--batch-size', 2, '--no-pictures', '--device', 'cpu', '--out-dir', tmp_path)
    assert run(*saved('resnet18_coc'), *images, *flags) is None
    assert [line['image'] for line in records(tmp_path)['images']] == list(map(str, images))


def test_unreadable_images_are_named_and_the_others_predicted(saved, images, tmp_path, capsys):
    text, cut, empty = (tmp_path / name for name in ('text.jpg', 'cut.jpg', 'empty.png'))
    text.write_text('no image')
    cut.write_bytes(images[0].read_bytes()[:500])
    empty.touch()
    files = (images[0], text, images[1], cut, empty)
    out = tmp_path / 'out'
    message = run(*saved('resnet18_coc'), *files, '--out-dir', out, '--batch-size', 4, '--device', 'cpu')
    assert message.startswith(f'error: 3 of 5 images could not be read, such as {text}: ') and '\n' not in message
    content = records(out)
    assert [line['image'] for line in content['images']] == [str(images[0]), str(images[1])]
    assert [line['image'] for line in content['unreadable']] == [str(text), str(cut), str(empty)]
    printed = capsys.readouterr().out
    assert all(f'{file}: not read: ' in printed for file in (text, cut, empty))


def test_pictures_of_before_as_images_are_not_overwritten(saved, images, tmp_path):
    config, checkpoint = saved('retinanet')
    shown = tmp_path / 'pictures' / 'a.png'
    shown.parent.mkdir()
    with Image.open(images[0]) as image:
        image.save(shown)
    before = shown.read_bytes()
    message = run(config, checkpoint, shown.parent, '--out-dir', tmp_path)
    assert f"--out-dir: '{shown}' is read, and would be overwritten" in message and shown.read_bytes() == before


def test_images_of_one_name_are_all_written(saved, images, tmp_path):
    copies = []
    for folder in ('a', 'b'):
        (tmp_path / folder).mkdir()
        copies.append(shutil.copy(images[0], tmp_path / folder / 'x.jpg'))
    with Image.open(images[0]) as image:
        image.save(tmp_path / 'b' / 'x.png')
    assert run(*saved('fcn_coc'), tmp_path / 'a', tmp_path / 'b', '--out-dir', tmp_path / 'out') is None
    lines = records(tmp_path / 'out')['images']
    assert [line['map'] for line in lines] == ['maps/x.png', 'maps/x_jpg.png', 'maps/x_png.png']
    assert all((tmp_path / 'out' / line[key]).is_file() for line in lines for key in ('map', 'picture'))


@pytest.mark.parametrize(
    ('files', 'names'),
    [
        (['/a/x.jpg', '/a/y.jpg'], ['x', 'y']),
        (['/a/x.jpg', '/b/x.jpg', '/b/y.jpg'], ['a/x', 'b/x', 'y']),
        (['/c/a/x.jpg', '/d/a/x.jpg', '/d/b/x.jpg'], ['c/a/x', 'd/a/x', 'b/x']),
        (['/x.jpg', '/a/x.jpg'], ['x', 'a/x']),
        (['/a/X.jpg', '/b/x.jpg'], ['a/X', 'b/x']),
        (['/a/x.jpg', '/a/x.png'], ['x_jpg', 'x_png']),
        (['/a/x.jpg', '/a/X.jpg'], ['x_jpg', 'X_jpg_2']),
        (['/a/x.jpg', '/a/x.png', '/a/x_jpg.bmp'], ['x_jpg', 'x_png', 'x_jpg_2']),
        (['/a/1.2.jpg', '/a/1.3.jpg'], ['1.2', '1.3']),
    ],
    ids=lambda value: '-'.join(value).replace('/', '.'),
)
def test_names_are_distinct(files, names):
    found = distinct_names([Path(file) for file in files])
    assert found == names and len({name.casefold() for name in found}) == len(files)


def test_pictures_are_turned_as_their_exif_data_say(saved, images, tmp_path):
    with Image.open(images[2]) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / 'turned.jpg', exif=exif)
    assert run(*saved('fcn_coc'), tmp_path / 'turned.jpg', '--out-dir', tmp_path / 'out') is None
    (line,) = records(tmp_path / 'out')['images']
    assert (line['width'], line['height']) == (48, 96)
    assert read(tmp_path / 'out', line['picture']).shape == (480, 240, 3)
    assert read(tmp_path / 'out', line['map']).shape == (96, 48)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (('absent.jpg',), "image 'absent.jpg' does not exist"),
        (('nothing/*.jpg',), "image 'nothing/*.jpg' matches no image"),
        (('tests',), "'tests' holds no image"),
        (('{image}', '--score-thr', 0.5), '--score-thr is for detectors, and the network is one of mmseg'),
        (('{image}', '--topk', 2), '--topk is for classifiers, and the network is one of mmseg'),
    ],
    ids=['absent', 'pattern', 'folder', 'score-thr', 'topk'],
)
def test_wrong_images_and_flags_are_refused(arguments, words, saved, images, tmp_path):
    arguments = [str(argument).format(image=images[0]) for argument in arguments]
    message = run(*saved('fcn_coc'), *arguments, '--out-dir', tmp_path)
    assert message.startswith('error: ') and words in message and '\n' not in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'arguments',
    [
        ('a.py',),
        ('a.py', 'a.pth'),
        ('a.py', 'image.jpg', 'other.jpg'),
        ('tests',),
        ('tests', 'a.pth'),
        ('a.py', 'a.pth', 'a.jpg', '--batch-size', '0'),
        ('a.py', 'a.pth', 'a.jpg', '--topk', '0'),
        ('a.py', 'a.pth', 'a.jpg', '--score-thr', '30'),
    ],
    ids='-'.join,
)
def test_wrong_command_lines_are_refused(arguments, capsys):
    assert run(*arguments) == 2
    assert 'error: ' in capsys.readouterr().err


def test_work_folder_without_a_run_is_refused(tmp_path, images):
    assert 'holds no config' in run(tmp_path, images[0])


def test_flags_may_stand_between_the_arguments(saved, images, tmp_path):
    config, checkpoint = saved('resnet18_coc')
    assert run(config, '--device', 'cpu', checkpoint, '--out-dir', tmp_path, images[0], '--topk', 1, images[1]) is None
    assert len(records(tmp_path)['images']) == 2


def test_a_checkpoint_of_a_work_folder_can_be_chosen(saved, images, tmp_path):
    config, checkpoint = saved('resnet18_coc')
    (tmp_path / 'mine.py').write_text(f'_base_ = {str(config)!r}')
    assert run(tmp_path, checkpoint, images[0], '--no-pictures') is None
    content = records(tmp_path / 'predictions')
    assert content['checkpoint'] == str(checkpoint) and content['config'] == str(tmp_path / 'mine.py')


@pytest.mark.parametrize('library', ['mmdet', 'mmseg', 'mmpretrain'])
def test_inferencers_of_upstream_read_through_the_restricted_reader(library, saved, tmp_path):
    """As docs/predict.md says: inside ``patched()`` they do not run the code in a checkpoint."""
    from mmdet.apis import DetInferencer
    from mmpretrain import ImageClassificationInferencer
    from mmseg.apis import MMSegInferencer

    malicious = write(tmp_path / 'malicious.pth', hidden('state_dict', execute(tmp_path / 'target')))
    name, infer = {
        'mmdet': ('retinanet', lambda c, f: DetInferencer(c, f, device='cpu', show_progress=False)),
        'mmseg': ('fcn_coc', lambda c, f: MMSegInferencer(c, f, device='cpu')),
        'mmpretrain': ('resnet18_coc', lambda c, f: ImageClassificationInferencer(c, f, device='cpu')),
    }[library]
    with patched(), pytest.raises(UnsafeCheckpointError, match='Nothing of it was executed'):
        infer(str(saved(name)[0]), str(malicious))
    assert not (tmp_path / 'target').exists()
