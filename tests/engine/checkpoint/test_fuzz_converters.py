"""Converters on damaged and hostile checkpoints: 70 in each run, 2,100 in the long suite."""

from collections import Counter

import pytest

from mmkerv.engine import safe_load
from tests.engine.checkpoint.fuzz_converters import CONVERTERS, check, fuzz, stored


def counted_outcomes(count: int, folder, seed: int) -> Counter:
    outcomes = list(fuzz(count, folder, seed))
    assert not [outcome for outcome in outcomes if outcome.status == 'FAILED']
    return Counter((outcome.converter, outcome.status) for outcome in outcomes)


def test_damaged_checkpoints_are_converted_or_refused_with_a_readable_error(tmp_path):
    counts = counted_outcomes(70, tmp_path, seed=1)
    assert sum(counts.values()) == 70
    assert sum(number for (_, status), number in counts.items() if status == 'refused') >= 40


@pytest.mark.long
def test_thousands_of_damaged_checkpoints_are_converted_or_refused(tmp_path):
    counts = counted_outcomes(2100, tmp_path, seed=0)
    for converter in CONVERTERS:
        assert counts[converter, 'refused'] >= 100
        assert counts[converter, 'done'] >= 10 or converter == 'untold'


@pytest.mark.parametrize('converter', [name for name in CONVERTERS if name != 'untold'])
def test_valid_checkpoints_are_converted(tmp_path, converter):
    """Without damage every converter succeeds, so the errors of the other tests are due to the damage."""
    content = stored(CONVERTERS[converter].checkpoint(), zipped=True)
    assert check(converter, content, 'valid', tmp_path, tmp_path / 'executed').status == 'done'
    new = [file for file in (tmp_path / 'out').glob('*.pth') if file.read_bytes()[:2] == b'PK']
    assert safe_load(new[0])['state_dict']
