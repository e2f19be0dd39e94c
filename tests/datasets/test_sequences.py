"""Transforms of images into sequences."""

import numpy as np
import pytest

pytest.importorskip('mmcv')

from mmkerv.datasets.sequences import DropSamples, Permute, SubSample, ToSequence
from mmkerv.registry import TRANSFORMS


def sequence(length: int = 12, channels: int | None = None) -> dict:
    shape = (1, length) if channels is None else (1, length, channels)
    return {'img': np.arange(1, np.prod(shape) + 1).reshape(shape)}


@pytest.mark.parametrize('channels', [(), (3,)], ids=['grey', 'colour'])
def test_an_image_is_read_row_by_row(channels):
    image = np.random.default_rng(0).integers(0, 256, (4, 5, *channels))
    result = ToSequence()({'img': image, 'img_shape': (4, 5)})
    assert result['img_shape'] == (1, 20) and result['img'].shape == (1, 20, *channels)
    assert all(
        np.array_equal(result['img'][0, 5 * row + column], image[row, column])
        for row in range(4)
        for column in range(5)
    )


def test_a_seed_determines_the_permutation():
    first, again, other = (Permute(seed=seed)(sequence(784))['img'] for seed in (3, 3, 4))
    assert sorted(first[0]) == list(range(1, 785)) and not np.array_equal(first, sequence(784)['img'])
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_permutation_neither_reads_nor_changes_the_random_state_of_numpy():
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)
    first = Permute(seed=0)(sequence())['img']
    assert np.array_equal(np.random.random(3), expected)
    assert np.array_equal(Permute(seed=0)(sequence())['img'], first)


@pytest.mark.parametrize(('step', 'length'), [(1, 12), (2, 6), (5, 3)])
def test_subsampling_keeps_every_nth_sample(step, length):
    result = SubSample(step)(sequence(12, 3))
    assert result['img'].shape == (1, length, 3) and result['img_shape'] == (1, length)
    assert np.array_equal(result['img'][0, :, 0], sequence(12, 3)['img'][0, ::step, 0])


@pytest.mark.parametrize('rate', [0.0, 0.25, 0.5])
def test_the_requested_share_of_samples_is_dropped(rate):
    given = sequence()
    result = DropSamples(rate, fill=-1)(dict(given))['img']
    dropped = result == -1
    assert dropped.sum() == round(rate * 12)
    assert np.array_equal(result[~dropped], given['img'][~dropped])
    assert (given['img'] > 0).all(), 'the input must not be written to'


def test_dropped_samples_differ_between_calls_without_a_seed():
    np.random.seed(0)
    drop = DropSamples(0.5)
    assert len({drop(sequence(40))['img'].tobytes() for _ in range(8)}) > 1
    drop = DropSamples(0.5, seed=1)
    assert len({drop(sequence(40))['img'].tobytes() for _ in range(8)}) == 1


def test_dropped_samples_are_filled_by_channel():
    result = DropSamples(0.5, fill=[-1, -2, -3], seed=0)(sequence(12, 3))['img']
    assert {tuple(v) for v in result[0][result[0, :, 0] < 0]} == {(-1, -2, -3)}


@pytest.mark.parametrize('transform', [Permute(0), SubSample(2), DropSamples(0.5)], ids=repr)
def test_an_image_is_refused_with_advice(transform):
    with pytest.raises(ValueError, match='ToSequence'):
        transform({'img': np.zeros((4, 4))})


@pytest.mark.parametrize(
    ('make', 'name'),
    [
        (lambda: Permute(-1), 'seed'),
        (lambda: Permute(0.5), 'seed'),
        (lambda: SubSample(0), 'step'),
        (lambda: DropSamples(1.0), 'rate'),
        (lambda: DropSamples(-0.1), 'rate'),
        (lambda: DropSamples('half'), 'rate'),
    ],
)
def test_bad_arguments_are_named_in_the_message(make, name):
    with pytest.raises((ValueError, TypeError), match=name):
        make()


def test_configs_find_the_transforms_by_name():
    for name in ('ToSequence', 'Permute', 'SubSample', 'DropSamples'):
        assert TRANSFORMS.get(f'mmkerv.{name}').__name__ == name
