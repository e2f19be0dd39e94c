"""`configs/_base_/no_decay.py` and the attribute `no_decay` of the operators."""

from pathlib import Path

import pytest

pytest.importorskip('mmengine')
from mmengine.config import Config

from mmkerv import ops
from mmkerv.registry import OPERATORS

CONFIG = Path(__file__).resolve().parents[2] / 'configs' / '_base_' / 'no_decay.py'


def test_the_config_exempts_what_the_operators_exempt_from_weight_decay():
    kinds = [getattr(ops, name) for name in OPERATORS]
    names = {name for kind in kinds for name in getattr(kind, 'operator', kind).no_decay}
    assert Config.fromfile(CONFIG).no_decay.custom_keys == dict.fromkeys(names, {'decay_mult': 0.0})
