"""`configs/_base_/no_decay.py` and the attribute `no_decay` of the operators."""

from pathlib import Path

import pytest

pytest.importorskip('mmengine')
from mmengine.config import Config

from mmkerv import ops
from mmkerv.ops.core.base import ConvNd

CONFIG = Path(__file__).resolve().parents[2] / 'configs' / '_base_' / 'no_decay.py'


def test_the_config_exempts_what_the_operators_exempt_from_weight_decay():
    exported = [getattr(ops, name) for name in ops.__all__]
    operators = [kind for kind in exported if isinstance(kind, type) and issubclass(kind, ConvNd)]
    names = {name for operator in operators for name in operator.no_decay}
    assert Config.fromfile(CONFIG).no_decay.custom_keys == {name: {'decay_mult': 0.0} for name in names}
