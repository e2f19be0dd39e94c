"""Annotations in COCO's format that users bring: what is found, what is refused, what is measured."""

import json
import os

import numpy as np
import pytest

from mmkerv.datasets.own import detection
from mmkerv.datasets.own.detection import find_annotations, survey_detection
from mmkerv.datasets.own.faults import Faults
from mmkerv.errors import ConfigError, DataError


def survey(data, tmp_path, val=None, images=()):
    faults = Faults()
    parts = survey_detection(data, val, images, 0.2, 0, tmp_path / 'split', faults)
    return parts, faults


def test_sound_data(coco, tmp_path, told):
    coco('train')
    coco('val', first=10)
    (train, val), faults = survey(tmp_path, tmp_path)
    assert not told(faults)
    assert train.classes == val.classes == ('cat', 'dog')
    assert train.folder == tmp_path / 'train' and val.folder == tmp_path / 'val'
    assert train.sizes.tolist() == [[40, 30]] * 5
    np.testing.assert_allclose(train.box_sizes, [[0.25, 0.5]] * 5)


def first(key, **values):
    return lambda data: data[key][0].update(values)


BOX = 'train: annotation 0, bbox'


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (
            first('annotations', bbox=[2, 3, 0.5, 20]),
            f'warning: 1 boxes are smaller than a pixel ({BOX} [2, 3, 0.5, 20])',
        ),
        (
            first('annotations', bbox=[40, 3, 5, 5]),
            f'warning: 1 boxes are outside of their image ({BOX} [40, 3, 5, 5])',
        ),
        (
            first('annotations', bbox=[-9, 3, 5, 5]),
            f'warning: 1 boxes are outside of their image ({BOX} [-9, 3, 5, 5])',
        ),
        (
            first('annotations', bbox=[30, 3, 15, 5]),
            f'warning: 1 boxes reach beyond their image ({BOX} [30, 3, 15, 5])',
        ),
        (first('annotations', bbox=[1, 2, 3]), f'1 boxes are not four finite numbers ({BOX} [1, 2, 3])'),
        (first('annotations', bbox=[1, 2, float('nan'), 4]), '1 boxes are not four finite numbers'),
        (
            first('annotations', category_id=9),
            '1 annotations have a category_id that the file does not declare (train: ',
        ),
        (first('annotations', image_id=99), 'warning: 1 annotations are of images that the file does not list'),
        (first('annotations', id='a7'), '1 ids of annotations are not numbers (train: annotation a7)'),
        (first('annotations', id=1), '1 ids are used twice (train: annotations 1)'),
        (first('images', id=1), '1 ids are used twice (train: images 1)'),
        (first('categories', name='dog'), '1 categories have the name of another (train: dog)'),
        (
            first('images', width=41),
            '1 images have another size than the file says (train: 0.png is 40 x 30, not 41 x 30)',
        ),
        (first('images', file_name='9.png'), '1 images are missing (train: '),
        (first('annotations', area=0), 'warning: 1 areas of annotations are not above 0 (train: annotation 0, area 0)'),
        (first('annotations', area=None), '1 areas of annotations are not finite numbers (train: annotation 0, area N'),
        (first('annotations', image_id=[0]), '1 entries of the file lack keys (train: annotations 0 lacks a number or'),
        (
            first('categories', id=None),
            '1 entries of the file lack keys (train: categories None lacks a number or name',
        ),
        (first('images', height=0), '1 entries of the file lack keys (train: images 0 lacks a name'),
        (
            lambda data: data['annotations'][0].pop('area'),
            '1 entries of the file lack keys (train: annotations 0 lacks area)',
        ),
        (
            lambda data: data['categories'].append({'id': 1, 'name': 'cow'}),
            'warning: 1 classes have no box in train (cow)',
        ),
    ],
)
def test_each_fault_is_named(coco, tmp_path, told, change, words):
    file = coco('train', change)
    _, faults = survey(file, tmp_path)
    assert words in told(faults)
    stops = not words.startswith('warning')
    assert bool(list(faults.lines())) == stops
    if stops:
        with pytest.raises(DataError, match='no config was written'):
            faults.refuse('data')


def test_all_faults_at_once_with_counts(coco, tmp_path, told):
    def change(data):
        for number, item in enumerate(data['annotations']):
            item.update(bbox=[1, 1, 0, 0]) if number else item.update(category_id=1)
        data['annotations'] += [{**data['annotations'][1], 'id': 100 + n} for n in range(3)]
        data['images'][4]['file_name'] = 'none.png'

    _, faults = survey(coco('train', change), tmp_path)
    text = told(faults)
    assert 'category_id 1' in text and 'images are missing' in text
    assert '7 boxes are smaller than a pixel' in text and text.count('[1, 1, 0, 0]') == 5 and 'and 2 more' in text


def test_damaged_image(coco, tmp_path, told):
    file = coco('train')
    image = tmp_path / 'train' / '2.png'
    image.write_bytes(image.read_bytes()[:200])
    (tmp_path / 'train' / '3.png').write_text('no image')
    _, faults = survey(file, tmp_path)
    assert '2 images cannot be read' in told(faults) and '3.png: not an image' in told(faults)


def test_image_turned_by_exif(coco, tmp_path, told):
    from PIL import Image

    file = coco('train', first('images', width=30, height=40))
    with Image.open(tmp_path / 'train' / '0.png') as image:
        image.load()
        exif = image.getexif()
        exif[274] = 6
        image.save(tmp_path / 'train' / '0.png', exif=exif)
    _, faults = survey(file, tmp_path)
    assert 'another size' not in told(faults)


def test_the_same_image_in_train_and_val(coco, tmp_path, told):
    train, val = coco('train'), coco('val', first=3)
    _, faults = survey(train, tmp_path, val)
    assert '2 images are in both train and val, by their bytes (3.png, 4.png)' in told(faults)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda data: data['categories'].reverse(), 'missing in val, or in another place (cat, dog)'),
        (lambda data: data['categories'].pop(), 'missing in val, or in another place (dog)'),
        (
            lambda data: data['categories'].append({'id': 8, 'name': 'cow'}),
            '1 categories are in val and not in train (cow)',
        ),
    ],
)
def test_categories_of_val(coco, tmp_path, told, change, words):
    def both(data):
        data['annotations'] = [item for item in data['annotations'] if item['category_id'] == 7]
        change(data)

    _, faults = survey(coco('train'), tmp_path, coco('val', both, first=10))
    assert words in told(faults)


def test_one_file_is_split(coco, tmp_path):
    file = coco('train')
    (train, val), _ = survey(tmp_path, tmp_path)
    assert train.is_new and val.is_new and val.file == tmp_path / 'split' / 'val.json'
    names = [[item['file_name'] for item in part.content['images']] for part in (train, val)]
    assert sorted(names[0] + names[1]) == [f'{n}.png' for n in range(5)] and len(names[1]) == 1
    for part in (train, val):
        ids = {item['id'] for item in part.content['images']}
        assert {item['image_id'] for item in part.content['annotations']} == ids
        assert part.content['categories'] == json.loads(file.read_text())['categories']
    again, _ = survey(file, tmp_path)
    assert again[1].content == val.content


def test_images_of_val_without_its_file_are_refused(coco, tmp_path):
    file = coco('train')
    with pytest.raises(ConfigError, match=r'--images .*: the second folder is of val, .* give it with --val'):
        survey(file, tmp_path, images=(tmp_path / 'train', tmp_path / 'val'))


def test_crowds_are_not_measured(coco, tmp_path):
    (train, _), _ = survey(coco('train', first('annotations', iscrowd=1)), tmp_path, coco('val', first=10))
    assert len(train.boxes) == 4


def test_which_files(coco, tmp_path):
    for name in ('captions_train', 'instances_train2017', 'instances_val2017'):
        coco(name)
    files = tmp_path / 'annotations' / 'instances_train2017.json', tmp_path / 'annotations' / 'instances_val2017.json'
    assert find_annotations(tmp_path, None) == files
    coco('instances_other_train')
    with pytest.raises(ConfigError, match='not clear which of its 3 files'):
        find_annotations(tmp_path, None)
    with pytest.raises(ConfigError, match='no json'):
        find_annotations(tmp_path / 'captions_train', None)
    with pytest.raises(FileNotFoundError, match='does not exist'):
        find_annotations(tmp_path / 'none.json', None)


def test_val_comes_before_test(coco, tmp_path):
    """As exports have them: train, valid and test."""
    for name in ('train', 'valid', 'test'):
        coco(name)
    assert find_annotations(tmp_path, None) == tuple(tmp_path / 'annotations' / f'{n}.json' for n in ('train', 'valid'))
    (tmp_path / 'annotations' / 'valid.json').unlink()
    assert find_annotations(tmp_path, None)[1] == tmp_path / 'annotations' / 'test.json'


def test_images_are_looked_for(coco, tmp_path):
    file = coco('train')
    (tmp_path / 'train').rename(tmp_path / 'pictures')
    assert detection.find_images(file, ['0.png', '1.png'], 'train') == tmp_path / 'pictures'
    with pytest.raises(DataError, match=r'no image .* was found .*--images DIR'):
        detection.find_images(file, ['none.png'], 'train')


def test_images_numbered_in_each_split(coco, tmp_path, picture, told):
    """Both folders have all names; the first of them is not that of val."""
    coco('train')
    coco('val')
    for n in range(5):
        picture(tmp_path / 'val' / f'{n}.png', 10 + n)
    (train, val), faults = survey(tmp_path, tmp_path)
    assert (train.folder, val.folder) == (tmp_path / 'train', tmp_path / 'val') and not told(faults)


@pytest.mark.parametrize('names', [('test', 'val'), ('val', 'test'), ('one', 'two')])
def test_the_folder_called_as_the_file_or_beside_it_comes_first(coco, tmp_path, names):
    for name in names:
        file = coco(name)
    assert detection.find_images(file.rename(tmp_path / names[1] / file.name), ['0.png'], 'val') == tmp_path / names[1]


def test_folders_that_nothing_tells_apart_are_refused(coco, tmp_path, picture):
    file = coco('train')
    (tmp_path / 'train').rename(tmp_path / 'one')
    (tmp_path / 'link').symlink_to(tmp_path / 'one')
    assert detection.find_images(file, ['0.png'], 'train').samefile(tmp_path / 'one')
    picture(tmp_path / 'two' / '0.png', 0)
    with pytest.raises(DataError, match=r"train\.json' may be those in '.*' or in '.*two': .*--images TRAIN VAL"):
        detection.find_images(file, ['0.png'], 'train')


def test_an_image_beyond_the_limit_of_pillow(coco, tmp_path, told, monkeypatch):
    coco('train')
    coco('val', first=10)
    monkeypatch.setattr('PIL.Image.MAX_IMAGE_PIXELS', 100)
    assert not told(survey(tmp_path, tmp_path)[1])


def test_folders_that_may_not_be_read_are_passed_over(coco, tmp_path, monkeypatch):
    """Such as a lost+found or the home of somebody else, one folder above the file."""
    file = coco('train')
    (tmp_path / 'closed').mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith('closed'):
            raise PermissionError(13, 'Permission denied', str(path))
        return real(path)

    monkeypatch.setattr(os, 'scandir', scandir)
    assert detection.find_images(file, ['0.png', '1.png'], 'train') == tmp_path / 'train'


@pytest.mark.parametrize('text', ['{', '[]', '{"images": []}'])
def test_no_coco_file(tmp_path, text):
    (tmp_path / 'a.json').write_text(text)
    with pytest.raises(DataError, match=r'not complete JSON|no list'):
        survey(tmp_path, tmp_path)


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_an_encoding_that_pycocotools_cannot_read(coco, tmp_path, encoding):
    file = coco('train')
    file.write_text(file.read_text(), encoding)
    with pytest.raises(DataError, match=r"annotation file '.*' is not complete JSON in UTF-8 \("):
        survey(file, tmp_path)


def test_one_image_cannot_be_split(coco, tmp_path):
    file = coco('train', lambda data: data.update(images=data['images'][:1], annotations=data['annotations'][:1]))
    with pytest.raises(DataError, match=r'too few images for a val; .* with --val'):
        survey(file, tmp_path)
