"""Class folders that users bring."""

import pytest

from mmkerv.datasets.own.faults import Faults
from mmkerv.datasets.own.folders import survey_folders
from mmkerv.errors import ConfigError, DataError


@pytest.fixture
def data(tmp_path, picture):
    for seed, name in enumerate(('train/cat', 'train/dog', 'val/cat', 'val/dog')):
        for n in range(5):
            picture(tmp_path / name / f'{n}.jpg', 10 * seed + n)
    return tmp_path


def survey(data, val=None):
    faults = Faults()
    return *survey_folders(data, val, 0.2, 0, data / 'split', faults), faults


def test_sound_data(data, told):
    classes, train, val, faults = survey(data)
    assert not told(faults)
    assert classes == ('cat', 'dog') and train.names[0] == ('cat/0.jpg', 0) and train.names[9] == ('dog/4.jpg', 1)
    assert train.list_file is None and val.list_file is None and val.folder == data / 'val'
    assert train.sizes.tolist() == [[40, 30]] * 10


def test_one_folder_is_split_by_class(data):
    classes, train, val, _ = survey(data / 'train')
    assert classes == ('cat', 'dog') and len(train.names) == 8
    assert [label for _, label in val.names] == [0, 1]
    assert val.list_file == data / 'train' / 'split' / 'val.txt'
    assert survey(data / 'train')[2].names == val.names


def broken(data, picture):
    yield lambda: (data / 'train' / 'dog' / '1.jpg').write_text('x'), '1 images cannot be read (train: '
    yield lambda: picture(data / 'val' / 'cow' / '1.jpg', 99), '1 class folders are in val and not in train (cow)'
    yield lambda: (data / 'train' / 'cow').mkdir(), '1 class folders of train have no image (cow)'
    yield lambda: picture(data / 'train' / 'dog' / '9.webp', 99), 'warning: 1 images have another suffix than'
    yield (
        lambda: picture(data / 'val' / 'cat' / '9.jpg', 3),
        'in both train and val, by their bytes (cat/3.jpg and cat/9',
    )
    yield lambda: picture(data / 'train' / 'dog' / '9.jpg', 3), 'warning: 1 images of train are in two classes'
    yield lambda: picture(data / 'train' / 'cow' / '9.jpg', 99), 'warning: 1 classes of train are not in val (cow)'


@pytest.mark.parametrize('number', range(7))
def test_each_fault_is_named(data, told, picture, number):
    change, words = list(broken(data, picture))[number]
    change()
    *_, faults = survey(data)
    assert words in told(faults)
    assert number == 2 or bool(list(faults.lines())) != words.startswith('warning')


def test_classes_keep_their_numbers_where_val_lacks_one(data, picture):
    picture(data / 'train' / 'bee' / '9.jpg', 99)
    classes, train, val, _ = survey(data)
    assert classes == ('bee', 'cat', 'dog') and train.list_file is None
    assert val.list_file == data / 'split' / 'val.txt' and val.names[0] == ('cat/0.jpg', 1)


def test_names_of_train_and_val_in_capitals(data):
    (data / 'train').rename(data / 'Training')
    (data / 'val').rename(data / 'Testing')
    classes, train, val, _ = survey(data)
    assert classes == ('cat', 'dog') and (train.folder, val.folder) == (data / 'Training', data / 'Testing')


@pytest.mark.parametrize('name', ['train', 'Train'])
def test_a_class_may_be_called_train(tmp_path, picture, name):
    for seed, folder in enumerate(('bus', name)):
        for n in range(5):
            picture(tmp_path / folder / f'{n}.jpg', 10 * seed + n)
    classes, train, val, _ = survey(tmp_path)
    assert set(classes) == {'bus', name} and len(train.names) == 8 and len(val.names) == 2


def test_hidden_folders_are_no_classes(data):
    (data / 'train' / '.cache').mkdir()
    classes, train, val, _ = survey(data)
    assert classes == ('cat', 'dog') and train.list_file == data / 'split' / 'train.txt' and val.list_file is None


def test_images_to_predict_beside_train_are_no_val(data):
    """A folder test without classes, as competitions have it."""
    for name in ('cat', 'dog'):
        for path in (data / 'val' / name).iterdir():
            path.rename(data / 'val' / f'{name}{path.name}')
        (data / 'val' / name).rmdir()
    (data / 'val').rename(data / 'test')
    with pytest.raises(ConfigError, match=r'has no val beside it; .* give --data .*train to split it'):
        survey(data)


def test_no_class_folders(data, tmp_path):
    with pytest.raises(ConfigError, match='has no folders'):
        survey(data / 'train' / 'cat')
    with pytest.raises(ConfigError, match='has no val beside it'):
        (data / 'val').rename(data / 'other')
        survey(data)
    (data / 'alone' / 'cat').mkdir(parents=True)
    with pytest.raises(ConfigError, match='two classes or more'):
        survey(data / 'alone')
    (data / 'alone' / 'dog').mkdir()
    with pytest.raises(DataError, match='none of 0 images'):
        survey(data / 'alone')


def test_classes_of_one_image_cannot_be_split(tmp_path, picture):
    for seed, name in enumerate(('cat', 'dog')):
        picture(tmp_path / name / 'a.jpg', seed)
    with pytest.raises(DataError, match=r'too few images for a val; .* with --val'):
        survey(tmp_path)
