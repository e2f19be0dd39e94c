"""Sizes, batches, lengths and anchors that are chosen by the data."""

import numpy as np
import pytest

from mmkerv.datasets.own.choices import MATCH, Anchors, anchors, default_size, out_of_reach, schedule
from mmkerv.datasets.own.split import split_names


@pytest.mark.parametrize(
    ('task', 'width', 'height', 'size'),
    [
        ('det', 640, 480, 640),
        ('det', 160, 160, 160),
        ('det', 4000, 3000, 1344),
        ('seg', 500, 375, 384),
        ('seg', 2048, 1024, 512),
        ('cls', 32, 32, 64),
        ('cls', 500, 375, 224),
    ],
)
def test_size(task, width, height, size):
    assert default_size(task, np.array([[width, height]] * 3 + [[1, 1]])) == size


def test_a_classifier_from_scratch_takes_small_images_as_they_are():
    assert default_size('cls', np.array([[28, 28]]), pretrained=False) == 32


@pytest.mark.parametrize('task', ['det', 'seg', 'cls'])
@pytest.mark.parametrize('pretrained', [True, False])
def test_schedule(task, pretrained):
    for images in (2, 5, 40, 300, 5000, 120_000):
        plan = schedule(task, 224, images, pretrained)
        assert 2 <= plan.batch <= max(2, images // 4) and plan.batch & (plan.batch - 1) == 0
        assert plan.warmup < plan.iterations and plan.interval <= plan.epochs
    assert schedule(task, 1024, 5000, pretrained).batch <= schedule(task, 224, 5000, pretrained).batch


def test_rate_follows_the_batch():
    assert schedule('det', 1344, 5000, True).rate == pytest.approx(0.01 * 2 / 16)


@pytest.mark.parametrize('side', [6, 9, 17, 30, 64])
def test_smallest_anchors_match_the_smallest_boxes(side):
    boxes = np.full((50, 2), float(side))
    found = anchors(boxes)
    assert 8 * found.scale <= MATCH * side
    assert found.small == found.large == side and found.ratios == (0.5, 1.0, 2.0)


def test_elongated_boxes():
    assert anchors(np.array([[10.0, 60.0]] * 9)).ratios == (0.5, 1.0, 2.0, 4.0)
    assert anchors(np.array([[60.0, 10.0]] * 9)).ratios == (0.25, 0.5, 1.0, 2.0)


def test_boxes_out_of_reach():
    assert not out_of_reach(anchors(np.full((9, 2), 20.0)), 640)
    assert 'use a larger --size' in out_of_reach(anchors(np.full((9, 2), 4.0)), 640)[0]
    assert 'use a smaller --size' in out_of_reach(Anchors(1, (), 20.0, 900.0), 1344)[0]
    assert not out_of_reach(anchors(np.zeros((0, 2))), 640)


def test_split():
    names = [f'{n}.jpg' for n in range(100)]
    train, val = split_names(names, 0.2, 0)
    assert sorted(train + val) == sorted(names) and len(val) == 20
    assert (train, val) == split_names(reversed(names), 0.2, 0) != split_names(names, 0.2, 1)
    # Most of the split stays when images are added.
    assert len(set(val) & set(split_names([*names, 'new.jpg'], 0.2, 0)[1])) >= 19
    assert split_names(['a'], 0.5, 0) == (['a'], []) and split_names('ab', 0.01, 0)[1]
