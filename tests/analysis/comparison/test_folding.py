"""Networks that cannot be folded or timed are named, and stop no other."""

from pathlib import Path

import pytest

pytest.importorskip('mmcv')

import torch
from torch import nn

from mmkerv.analysis.comparison import folding
from mmkerv.analysis.comparison.record import Run
from mmkerv.analysis.comparison.variant import parse_variant
from mmkerv.errors import FoldCheckError


class Network(nn.Module):
    """A network of which mode='tensor' may be missing, as of Mask2Former in mmsegmentation."""

    def __init__(self, refuses):
        super().__init__()
        self.conv, self.refuses = nn.Conv2d(3, 4, 3), refuses

    def forward(self, inputs, samples=None, mode='tensor'):
        if self.refuses:
            raise TypeError("missing 'batch_data_samples'")
        return self.conv(inputs)


def test_network_without_raw_outputs_is_not_timed(monkeypatch, tmp_path):
    monkeypatch.setattr(
        folding, 'load_trained', lambda config, weights, device: (None, Network(refuses=config == 'coc.py'))
    )
    runs = [Run(parse_variant(spec), 0, tmp_path / spec) for spec in ('coc', 'plain')]
    lines, configs = [], {'plain': 'plain.py', 'coc': 'coc.py'}
    found = folding.times(runs, configs, (16, 16), tmp_path, tell=lines.append)
    assert found['milliseconds']['coc'] == [None, None] and found['milliseconds']['plain'][0] > 0
    assert found['not_timed'] == [lines[-1]] == ["coc: not timed: TypeError: missing 'batch_data_samples'"]


def test_network_that_cannot_be_folded_is_named(monkeypatch, tmp_path):
    def raises(*args, **kwargs):
        raise TypeError("missing 'batch_data_samples'")

    (tmp_path / 'epoch_1.pth').touch()
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    monkeypatch.setattr(folding, 'fold_checkpoint', raises)
    monkeypatch.setattr(folding, 'load_config', lambda file: None)
    found = folding.fold_run(Run(parse_variant('coc'), 0, tmp_path), Path('a.py'), (16, 16))
    assert found == {'kept': "TypeError: missing 'batch_data_samples'"}


def test_reason_is_the_same_under_every_seed(monkeypatch, tmp_path):
    def raises(cfg, checkpoint, out, shape):
        raise FoldCheckError(f'{checkpoint}: the network has no operator that folds')

    monkeypatch.setattr(folding, 'fold_checkpoint', raises)
    monkeypatch.setattr(folding, 'load_config', lambda file: None)
    reasons = set()
    for seed in (0, 1):
        run = Run(parse_variant('kerv'), seed, tmp_path / f'seed_{seed}')
        run.folder.mkdir()
        (run.folder / 'epoch_1.pth').touch()
        (run.folder / 'last_checkpoint').write_text(str(run.folder / 'epoch_1.pth'))
        reasons.add(folding.fold_run(run, Path('a.py'), (16, 16))['kept'])
    assert reasons == {'the network has no operator that folds'}


@pytest.fixture
def timed(monkeypatch, tmp_path):
    """Return a function that times two networks, and what it has told."""
    broken, lines = set(), []

    def load(config, weights, device):
        return None, Network(refuses=config in broken)

    runs = [Run(parse_variant(spec), 0, tmp_path / spec) for spec in ('coc', 'plain')]
    for run in runs:
        run.folder.mkdir()
    configs = {'plain': 'plain.py', 'coc': 'coc.py'}
    monkeypatch.setattr(folding, 'load_trained', load)
    return lambda: folding.times(runs, configs, (16, 16), tmp_path, tell=lines.append), broken, lines


def test_times_are_kept(timed):
    times, _, lines = timed
    assert times() == times() and len(lines) == 1


def test_network_that_was_not_timed_is_tried_again(timed):
    times, broken, _ = timed
    broken.add('coc.py')
    assert times()['milliseconds']['coc'] == [None, None]
    broken.clear()
    assert times()['milliseconds']['coc'][0] > 0 and times()['not_timed'] == []


def test_network_that_was_folded_later_is_timed(timed, tmp_path):
    times, _, _ = timed
    times()
    (tmp_path / 'coc' / folding.FOLDED).touch()
    assert times()['milliseconds']['coc'][1] > 0


def test_times_of_another_device_are_not_kept(timed, tmp_path):
    times, _, lines = timed
    times()
    file = tmp_path / folding.TIMES_FILE
    file.write_text(file.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    assert times()['device'] == 'cpu' and len(lines) == 2


def test_memory_that_is_too_short_for_all_networks_at_a_time(timed, monkeypatch):
    def raises(*args):
        raise torch.cuda.OutOfMemoryError('2 GiB')

    times, _, lines = timed
    monkeypatch.setattr(folding, 'inference_times', raises)
    found = times()
    assert found['milliseconds'] == {'coc': [None, None], 'plain': [None, None]}
    assert found['not_timed'] == [lines[-1]] == ['no network is timed: OutOfMemoryError: 2 GiB']
