import copy
import itertools
import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from mmkerv.engine.resume.random_state import read_states, seed_generators, set_states
from mmkerv.engine.resume.sample_position import BatchStream, Draw, PlacedBatches, SeededDataset, place_batches
from tests.engine.resume.interrupted_runs import Refetched
from tests.engine.tiny_runner import RandomImages


def batches(sampler=InfiniteSampler, size=2, **kwargs):
    return BatchSampler(sampler(range(7), seed=3, **kwargs), size, drop_last=False)


def indices(placed, count):
    return [[draw.index for draw in batch] for batch in itertools.islice(placed, count)]


@pytest.mark.parametrize('start', [0, 1, 5, 9])
@pytest.mark.parametrize('sampler', [DefaultSampler, InfiniteSampler])
def test_start_leaves_out_batches_over_the_passes(sampler, start):
    whole = list(itertools.islice(PlacedBatches(batches(sampler), endless=True), 14))
    placed = PlacedBatches(batches(sampler), endless=True)
    placed.start = start
    assert list(itertools.islice(placed, 14 - start)) == whole[start:]
    places = [draw.place for batch in whole for draw in batch]
    assert len(set(places)) == len(places), 'a place is one of a kind'


def test_endless_passes_are_the_epochs_of_the_sampler():
    placed, expected = PlacedBatches(batches(DefaultSampler), endless=True), []
    for epoch in range(3):
        own = batches(DefaultSampler)
        own.sampler.set_epoch(epoch)
        expected += list(own)
    assert indices(placed, 12) == expected and expected[:4] != expected[4:8]


def test_a_pass_ends_and_the_next_begins_at_its_start():
    placed = PlacedBatches(batches(DefaultSampler))
    placed.start, placed.epoch = 3, 5
    assert [draw.place for batch in placed for draw in batch] == [(5, 6, 0)]
    assert len(list(placed)) == len(placed) == 4
    placed.start = 4
    assert list(placed) == []
    assert list(PlacedBatches([], endless=True)) == [], 'what is empty has an end all the same'


@pytest.mark.parametrize('context', ['fork', 'spawn'])
def test_what_is_loaded_does_not_depend_on_the_workers(context):
    def loaded(workers, persistent=False, seed=0):
        chosen = dict(multiprocessing_context=context, persistent_workers=persistent) if workers else {}
        loader = DataLoader(Refetched(), batch_size=2, num_workers=workers, **chosen)
        placed, found = place_batches(loader, seed, endless=False), []
        for epoch in range(2):
            placed.epoch = epoch
            found.append(torch.cat(list(loader)))
        return torch.cat(found)

    alone = loaded(0)
    assert torch.equal(loaded(2, persistent=True), alone)
    if context == 'fork':
        assert torch.equal(loaded(3), alone)
        assert not torch.equal(loaded(0, seed=1), alone)
    assert len(alone.unique()) > 24 and not torch.equal(alone[:6], alone[6:]), 'each sample is augmented anew'


def test_samplers_that_repeat_an_index_augment_it_anew():
    data = SeededDataset(Refetched(), 0)
    first, second, other_rank = (data[Draw(1, place)] for place in ((0, 0, 0), (0, 1, 0), (0, 0, 1)))
    assert not torch.equal(first, second) and not torch.equal(first, other_rank)


def test_data_set_is_that_of_the_loader_in_all_but_its_seeds():
    own = RandomImages()
    data = SeededDataset(own, 0)
    data.images = own.images * 2
    assert own.images is data.images, 'hooks that switch a pipeline reach the data set'
    assert len(data) == 4 and torch.equal(data[1]['inputs'], own[1]['inputs'])
    assert not hasattr(data, '__getitems__') and not hasattr(data, 'absent')
    assert copy.deepcopy(data) is data and torch.equal(pickle.loads(pickle.dumps(data)).images, own.images)


def test_loader_is_placed_once_and_keeps_its_settings():
    loader = DataLoader(RandomImages(), batch_size=2)
    place_batches(loader, 0, endless=False)
    again = place_batches(loader, 0, endless=False)
    assert loader.batch_sampler is again and isinstance(again.batches, BatchSampler)
    assert loader.batch_size == again.batch_size == 2 and len(loader) == 2 and not again.drop_last
    assert type(loader.dataset._seeded) is RandomImages


def test_loaders_without_indices_are_left_alone():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    for loader in (DataLoader(Stream()), DataLoader([1, 2], batch_size=None)):
        before = loader.dataset
        assert place_batches(loader, 0, endless=True) is None and loader.dataset is before


def test_stream_draws_nothing_for_what_is_left_out():
    loader = DataLoader(RandomImages(), batch_size=2)
    place_batches(loader, 0, endless=True).start = 3
    stream = BatchStream(loader, skips=3)
    assert [next(stream) for _ in range(3)] == [None] * 3 and stream._iterator is None
    assert torch.equal(next(stream)['inputs'], RandomImages().images[2:])


def draws():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.standard_normal(), torch.rand(1).item()


def test_states_go_through_a_checkpoint(tmp_path):
    from mmkerv.engine import safe_load

    # Both keep the second of two normal numbers.
    draws()
    torch.save(read_states(), tmp_path / 'states.pth')
    expected = draws()
    seed_generators(1)
    set_states(safe_load(tmp_path / 'states.pth'))
    assert draws() == expected


def test_keys_give_streams_of_their_own():
    found = []
    for key in ((0, 1), (1, 0), (0, 1, 0), (0, 2), (2**63, 1)):
        seed_generators(*key, devices=False)
        found.append(draws())
    seed_generators(0, 1)
    assert draws() == found[0], 'devices make no difference to a CPU'
    assert all(len({draw[i] for draw in found}) == len(found) for i in range(5))


@pytest.mark.gpu
def test_states_of_the_devices():
    states = read_states()
    drawn = torch.rand(3, device='cuda')
    set_states(states)
    assert torch.equal(torch.rand(3, device='cuda'), drawn)
    seed_generators(1, devices=False)
    set_states(states)
    assert torch.equal(torch.rand(3, device='cuda'), drawn)
