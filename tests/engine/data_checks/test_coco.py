import copy

import pytest

from mmkerv.engine.data_checks.coco import check_annotations, check_classes
from mmkerv.errors import DataError

DATA = {
    'images': [{'id': i, 'file_name': f'{i}.jpg', 'height': 20, 'width': 30} for i in (1, 2)],
    'categories': [{'id': 1, 'name': 'cat'}, {'id': 5, 'name': 'dog'}],
    'annotations': [
        {'id': i, 'image_id': 1, 'category_id': 5, 'bbox': [1, 2, 8.5, 4], 'area': 34.0} for i in range(10, 14)
    ],
}
NAN = float('nan')


def changed(key: str, number: int, **values) -> dict:
    data = copy.deepcopy(DATA)
    data[key][number].update(values)
    return data


def without(key: str, *field: str) -> dict:
    data = copy.deepcopy(DATA)
    for name in field:
        del data[key][1][name]
    if not field:
        del data[key]
    return data


def test_valid_annotations_pass():
    assert check_annotations(copy.deepcopy(DATA), 'a.json') == []
    assert check_annotations(without('annotations'), 'a.json') == []
    assert check_annotations(changed('annotations', 0, ignore=True, bbox=None, area=NAN), 'a.json') == []


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        ([], 'holds a list'),
        (without('images'), "has no list 'images'"),
        (without('categories'), "has no list 'categories'"),
        ({**DATA, 'annotations': {}}, "has no list 'annotations'"),
        (without('images', 'height', 'width'), "image 2 has no 'height, width'"),
        (without('annotations', 'bbox'), "annotation 11 has no 'bbox'"),
        (without('annotations', 'area'), "annotation 11 has no 'area'"),
        (without('annotations', 'id'), "an item of annotations has no 'id'"),
        ({**DATA, 'images': [3]}, 'an item of images has no'),
        (changed('images', 0, height=0), r'image 1 has .*height and width \(0, 30\)'),
        (changed('images', 0, file_name=None), 'image 1 has file_name None'),
        (changed('annotations', 2, bbox=[1, 2, NAN, 4]), '1 of 4 boxes are NaN .* annotation 12 of image 1'),
        (changed('annotations', 2, bbox=[1, 2, float('inf'), 4]), 'NaN or infinite'),
        (changed('annotations', 2, area=NAN), 'NaN or infinite'),
        (changed('annotations', 2, bbox=[1, 2, 3]), r'annotation 12 has bbox \[1, 2, 3\]'),
        (changed('annotations', 2, bbox='1 2 3 4'), 'annotation 12 has bbox 1 2 3 4'),
        (changed('annotations', 2, bbox=[[1], [2], [3], [4]], area=None), 'annotation 12 has bbox'),
        (changed('annotations', 2, id=11), "id '11' of an annotation is used twice"),
        (changed('annotations', 2, id=[1]), r'id \[1\] of an annotation is not a number'),
    ],
)
def test_what_mmdetection_cannot_use_is_refused(data, message):
    with pytest.raises(DataError, match=rf"annotation file 'a\.json'.*{message}") as caught:
        check_annotations(data, 'a.json')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (changed('annotations', 1, bbox=[1, 2, 0, 4]), '1 of 4 boxes are smaller than a pixel (the first in'),
        (changed('annotations', 1, bbox=[1, 2, -3, 4]), '1 of 4 boxes are smaller'),
        (changed('annotations', 1, area=0), '1 of 4 boxes are smaller'),
        (changed('annotations', 1, category_id=7), '(category_id 7) (the first in annotation 11): they are left out'),
        (changed('annotations', 1, category_id=[7]), '(category_id [7])'),
        (changed('annotations', 1, image_id=9), 'are of images that the file does not list (image_id 9)'),
    ],
)  # fmt: skip
def test_what_mmdetection_leaves_out_is_counted(data, message):
    (note,) = check_annotations(data, 'a.json')
    assert message in note


def test_ids_that_are_no_numbers_are_told():
    data = changed('annotations', 1, id='a7')
    (note,) = check_annotations(data, 'a.json')
    assert note == (
        "1 of 4 ids of annotations are not numbers (the first is 'a7'): an evaluation with the file fails; number them"
    )
    assert check_annotations(changed('annotations', 1, id='7'), 'a.json') == []


def test_classes_are_compared_with_the_categories():
    assert check_classes(('cat', 'dog'), ['dog', 'cat', 'cow'], 'a.json') == []
    (note,) = check_classes(('cat', 'persn'), ['cat', 'person'], 'a.json')
    assert "1 of 2 classes are not in the file ('persn')" in note
    with pytest.raises(DataError, match=r"lists none of the 1 classes .*'bird'.* but 'cat'\. Set metainfo"):
        check_classes(('bird',), ['cat'], 'a.json')
