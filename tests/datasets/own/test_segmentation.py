"""Images and masks that users bring."""

import numpy as np
import pytest
from PIL import Image

from mmkerv.datasets.own.faults import Faults
from mmkerv.datasets.own.segmentation import class_names, colour, find_places, survey_segmentation, text_lines
from mmkerv.errors import ConfigError, DataError


@pytest.fixture
def data(tmp_path, picture, mask):
    for split, first in (('train', 0), ('val', 10)):
        for n in range(first, first + 4):
            picture(tmp_path / 'images' / split / f'{n}.jpg', n)
            mask(tmp_path / 'masks' / split / f'{n}.png', [0, 1, 2, 255])
    return tmp_path


def survey(data, names=None, images=(), masks=(), val=None):
    faults = Faults()
    found = survey_segmentation(data, val, images, masks, names, 0.25, 0, data / 'split', faults)
    return found, faults


def test_sound_data(data, told):
    found, faults = survey(data)
    assert not told(faults)
    assert found.classes == ('class_0', 'class_1', 'class_2')
    assert found.palette == [colour(0), colour(1), colour(2)]
    assert (found.image_suffix, found.mask_suffix) == ('.jpg', '.png')
    assert found.train.names == ['0', '1', '2', '3'] and found.train.list_file is None
    assert found.val.images == data / 'images' / 'val'


def test_names_and_palette_are_read(data, told):
    (data / 'classes.txt').write_text('sky\n\nsea\nsand\nboat\n')
    for path in (data / 'masks').rglob('*.png'):
        image = Image.fromarray(np.asarray(Image.open(path))).convert('P')
        image.putpalette([*range(1, 10), *(0,) * 759])
        image.save(path)
    found, faults = survey(data, class_names((), data))
    assert found.classes == ('sky', 'sea', 'sand', 'boat')
    assert found.palette == [(1, 2, 3), (4, 5, 6), (7, 8, 9), colour(3)]
    assert told(faults).startswith('warning: 1 classes have no pixel in train (3 boat)')


def test_names_of_the_command_line(data):
    assert class_names(['a', 'b'], data) == ('a', 'b')
    (data / 'names').write_text('a b\nc\n')
    assert class_names([str(data / 'names')], data) == ('a b', 'c')
    assert class_names((), data) is None
    with pytest.raises(DataError, match="'a' is named twice"):
        class_names(['a', 'a'], data)


def broken(data, picture, mask):
    """Yield a change for each kind of fault, and what is told."""
    masks, images = data / 'masks' / 'train', data / 'images' / 'train'
    yield (
        lambda: mask(masks / '1.png', [0, 1, 2], (30, 40)),
        '1 masks have another size than their image (train: 1.png is',
    )
    yield lambda: picture(masks / '1.png', 5), '1 masks are pictures in colour (train: 1.png)'
    yield lambda: (masks / '1.png').unlink(), '1 images have no mask (train: 1.jpg needs 1.png)'
    yield lambda: (masks / '1.png').write_text('x'), '1 masks cannot be read (train: '
    yield lambda: (images / '1.jpg').write_text('x'), '1 images cannot be read (train: '
    yield lambda: (images / '1.jpg').unlink(), 'warning: 1 masks have no image (train: 1.png)'
    yield lambda: picture(images / '9.png', 9), '1 images have another suffix than most (train: 9.png, not .jpg)'
    yield lambda: mask(masks / '1.png', [0, 7]), '1 masks have labels beyond the classes (train: 1 has 7 of 3 classes)'
    yield lambda: mask(data / 'masks' / 'val' / '11.png', [9]), 'beyond the classes (val: 11 has 9 of 3 classes)'
    yield (
        lambda: (data / 'images' / 'val' / '11.jpg').write_bytes((images / '1.jpg').read_bytes()),
        '1 images are in both train and val, by their bytes (1 and 11)',
    )


@pytest.mark.parametrize('number', range(10))
def test_each_fault_is_named(data, told, picture, mask, number):
    change, words = list(broken(data, picture, mask))[number]
    change()
    _, faults = survey(data, ('a', 'b', 'c'))
    assert words in told(faults)
    assert bool(list(faults.lines())) != words.startswith('warning')


@pytest.mark.parametrize('split', ['train', 'val'])
def test_no_image_can_be_read(data, split):
    for path in (data / 'images' / split).iterdir():
        path.write_text('version https://git-lfs.github.com/spec/v1')
    with pytest.raises(DataError, match=rf'no image of {split} in .* can be used\n4 images cannot be read'):
        survey(data)


def test_greys_are_no_colours(data):
    """Those that Pillow writes into a mask which it converts to a palette."""
    for path in (data / 'masks').rglob('*.png'):
        Image.open(path).convert('P').save(path)
    found, _ = survey(data)
    assert found.palette == [colour(0), colour(1), colour(2)]


def test_a_class_of_val_alone(data, told, mask):
    for path in (data / 'masks' / 'train').iterdir():
        mask(path, [0, 1])
    _, faults = survey(data)
    assert told(faults) == 'warning: 1 classes have no pixel in train (2 class_2). They cannot be learned'


def test_masks_of_0_and_255(data, told, mask):
    for path in (data / 'masks').rglob('*.png'):
        mask(path, [0, 255])
    _, faults = survey(data)
    assert 'masks of 0 and 255 need 0 and 1' in told(faults)


def test_flat_folders_are_split(tmp_path, picture, mask):
    for n in range(8):
        picture(tmp_path / 'JPEGImages' / f'{n}.png', n)
        mask(tmp_path / 'SegmentationClass' / f'{n}_mask.png', [0, 1])
    found, faults = survey(tmp_path)
    assert not list(faults.lines())
    assert found.mask_suffix == '_mask.png' and found.train.is_new and found.val.is_new
    assert len(found.val.names) == 2 and sorted(found.train.names + found.val.names) == list('01234567')
    assert found.val.list_file == tmp_path / 'split' / 'val.txt'


def test_lists_of_voc(tmp_path, picture, mask):
    base = tmp_path / 'VOCdevkit' / 'VOC2012'
    for n in range(4):
        picture(base / 'JPEGImages' / f'{n}.jpg', n)
        mask(base / 'SegmentationClass' / f'{n}.png', [0, 1])
    lists = base / 'ImageSets' / 'Segmentation'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('0\n1\n2\n')
    (lists / 'val.txt').write_text('3\n')
    found, faults = survey(tmp_path)
    assert not list(faults.lines())
    assert found.train.names == ['0', '1', '2'] and found.val.list_file == lists / 'val.txt' and not found.val.is_new


def test_folders_of_train_and_val(tmp_path, picture, mask):
    for split, n in (('train', 0), ('val', 1)):
        picture(tmp_path / split / 'images' / f'{n}.jpg', n)
        mask(tmp_path / split / 'labels' / f'{n}.png', [0, 1])
    places = find_places(tmp_path, None, (), ())
    assert places == find_places(tmp_path / 'train', tmp_path / 'val', (), ())
    assert places[1].masks == tmp_path / 'val' / 'labels'


def test_unknown_layouts(tmp_path):
    with pytest.raises(ConfigError, match=r'no folder of images .* beside one of masks'):
        find_places(tmp_path, None, (), ())
    with pytest.raises(ConfigError, match=r'--val .* would not be used; give the folders of val as the second'):
        find_places(tmp_path, tmp_path, [tmp_path], [tmp_path])
    with pytest.raises(ConfigError, match='got 1 and 0 of them'):
        find_places(tmp_path, None, [tmp_path], ())


def test_one_image_cannot_be_split(tmp_path, picture, mask):
    picture(tmp_path / 'images' / 'a.png', 0)
    mask(tmp_path / 'masks' / 'a.png', [0, 1])
    with pytest.raises(DataError, match=r'too few images for a val; .* with --val'):
        survey(tmp_path)


def test_texts_are_in_utf_8(data, tmp_path, monkeypatch):
    """Whatever the locale; Windows' editors begin them with a mark, which mmsegmentation reads as a letter."""
    # Instead of the locale's encoding.
    monkeypatch.setattr('io.text_encoding', lambda encoding, *_: encoding or 'ascii')
    classes, names = data / 'classes.txt', data / 'names.txt'
    for encoding in ('utf-8', 'utf-8-sig'):
        classes.write_text('Straße\n\n Fluß \n', encoding=encoding)
        assert class_names((), data) == ('Straße', 'Fluß')
    names.write_text('ä\n\n b\n', encoding='utf-8')
    assert text_lines(names) == ['ä', 'b']
    names.write_text('a\n', encoding='utf-8-sig')
    with pytest.raises(DataError, match=r"names\.txt' begins with a byte order mark, .*save it as UTF-8 without"):
        text_lines(names)
    classes.write_text('Straße', encoding='latin-1')
    with pytest.raises(DataError, match=r"classes\.txt' is not a text in UTF-8 .*; save it as UTF-8"):
        class_names((), data)
