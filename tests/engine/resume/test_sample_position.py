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
from mmkerv.engine.resume.sample_position import BatchStream, Draw, PositionedBatches, SeededDataset, track_positions
from tests.engine.resume.interrupted_runs import Refetched
from tests.engine.tiny_runner import RandomImages


def batches(sampler=InfiniteSampler, size=2, **kwargs):
    return BatchSampler(sampler(range(7), seed=3, **kwargs), size, drop_last=False)


def indices(positioned, count):
    return [[draw.index for draw in batch] for batch in itertools.islice(positioned, count)]


@pytest.mark.parametrize('start', [0, 1, 5, 9])
@pytest.mark.parametrize('sampler', [DefaultSampler, InfiniteSampler])
def test_start_skips_batches_across_passes(sampler, start):
    whole = list(itertools.islice(PositionedBatches(batches(sampler), endless=True), 14))
    positioned = PositionedBatches(batches(sampler), endless=True)
    positioned.start = start
    assert list(itertools.islice(positioned, 14 - start)) == whole[start:]
    positions = [draw.position for batch in whole for draw in batch]
    assert len(set(positions)) == len(positions), 'each position is unique'


def test_endless_passes_are_the_epochs_of_the_sampler():
    positioned, expected = PositionedBatches(batches(DefaultSampler), endless=True), []
    for epoch in range(3):
        own = batches(DefaultSampler)
        own.sampler.set_epoch(epoch)
        expected += list(own)
    assert indices(positioned, 12) == expected and expected[:4] != expected[4:8]


def test_next_pass_begins_at_its_first_batch():
    positioned = PositionedBatches(batches(DefaultSampler))
    positioned.start, positioned.epoch = 3, 5
    assert [draw.position for batch in positioned for draw in batch] == [(5, 6, 0)]
    assert len(list(positioned)) == len(positioned) == 4
    positioned.start = 4
    assert list(positioned) == []
    assert list(PositionedBatches([], endless=True)) == [], 'an empty sampler ends even if endless'


@pytest.mark.parametrize('context', ['fork', 'spawn'])
def test_loaded_samples_do_not_depend_on_the_workers(context):
    def loaded(workers, persistent=False, seed=0):
        chosen = dict(multiprocessing_context=context, persistent_workers=persistent) if workers else {}
        loader = DataLoader(Refetched(), batch_size=2, num_workers=workers, **chosen)
        positioned, found = track_positions(loader, seed, endless=False), []
        for epoch in range(2):
            positioned.epoch = epoch
            found.append(torch.cat(list(loader)))
        return torch.cat(found)

    alone = loaded(0)
    assert torch.equal(loaded(2, persistent=True), alone)
    if context == 'fork':
        assert torch.equal(loaded(3), alone)
        assert not torch.equal(loaded(0, seed=1), alone)
    assert len(alone.unique()) > 24 and not torch.equal(alone[:6], alone[6:]), 'augmented differently in each epoch'


def test_repeated_index_is_augmented_differently():
    data = SeededDataset(Refetched(), 0)
    first, second, other_rank = (data[Draw(1, position)] for position in ((0, 0, 0), (0, 1, 0), (0, 0, 1)))
    assert not torch.equal(first, second) and not torch.equal(first, other_rank)


def test_seeded_data_set_passes_attributes_through():
    own = RandomImages()
    data = SeededDataset(own, 0)
    data.images = own.images * 2
    assert own.images is data.images, 'hooks that switch a pipeline change the data set'
    assert len(data) == 4 and torch.equal(data[1]['inputs'], own[1]['inputs'])
    assert not hasattr(data, '__getitems__') and not hasattr(data, 'absent')
    assert copy.deepcopy(data) is data and torch.equal(pickle.loads(pickle.dumps(data)).images, own.images)


def test_positions_are_tracked_once_and_settings_kept():
    loader = DataLoader(RandomImages(), batch_size=2)
    track_positions(loader, 0, endless=False)
    again = track_positions(loader, 0, endless=False)
    assert loader.batch_sampler is again and isinstance(again.batches, BatchSampler)
    assert loader.batch_size == again.batch_size == 2 and len(loader) == 2 and not again.drop_last
    assert type(loader.dataset._seeded) is RandomImages


def test_loaders_without_indices_are_not_changed():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    for loader in (DataLoader(Stream()), DataLoader([1, 2], batch_size=None)):
        before = loader.dataset
        assert track_positions(loader, 0, endless=True) is None and loader.dataset is before


def test_stream_loads_nothing_for_skipped_batches():
    loader = DataLoader(RandomImages(), batch_size=2)
    track_positions(loader, 0, endless=True).start = 3
    stream = BatchStream(loader, skips=3)
    assert [next(stream) for _ in range(3)] == [None] * 3 and stream._iterator is None
    assert torch.equal(next(stream)['inputs'], RandomImages().images[2:])


def draws():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.standard_normal(), torch.rand(1).item()


def test_states_are_restored_from_a_checkpoint(tmp_path):
    from mmkerv.engine import safe_load

    # Python and numpy keep the second of two normal numbers in their state.
    draws()
    torch.save(read_states(), tmp_path / 'states.pth')
    expected = draws()
    seed_generators(1)
    set_states(safe_load(tmp_path / 'states.pth'))
    assert draws() == expected


def test_different_keys_give_independent_streams():
    streams = []
    for key in ((0, 1), (1, 0), (0, 1, 0), (0, 2), (2**63, 1)):
        seed_generators(*key, devices=False)
        streams.append(draws())
    seed_generators(0, 1)
    assert draws() == streams[0], 'devices do not change the CPU generator'
    assert all(len({draw[i] for draw in streams}) == len(streams) for i in range(5))


@pytest.mark.gpu
def test_states_of_devices_are_restored():
    states = read_states()
    drawn = torch.rand(3, device='cuda')
    set_states(states)
    assert torch.equal(torch.rand(3, device='cuda'), drawn)
    seed_generators(1, devices=False)
    set_states(states)
    assert torch.equal(torch.rand(3, device='cuda'), drawn)
