"""Operators as `--operator` and `--where` name them; tests/analysis/comparison/test_variant.py has the grammar."""

import pytest

pytest.importorskip('mmengine')

import mmkerv
from mmkerv.engine.config.operator_spec import OperatorSpec, operator_names, parse_operator
from mmkerv.errors import ConfigError
from mmkerv.ops.core.base import Conv1d, Conv2d
from mmkerv.ops.core.generated import GeneratedKernel


@pytest.mark.parametrize(
    ('spec', 'where', 'expected'),
    [
        ('coc', (), ('CoCConv', {}, {})),
        ('coc', ['stages=2,3', 'stem=False'], ('CoCConv', {}, {'stages': (2, 3), 'stem': False})),
        ('kerv:degree=2', ['where.stages=()'], ('KervConv', {'degree': 2}, {'stages': ()})),
        ('dcls:where.stem=no', ["names='^backbone, x'"], ('DCLSConv', {}, {'stem': 'no', 'names': '^backbone, x'})),
        ('CoCConv', ["names=['^neck','head']"], ('CoCConv', {}, {'names': ['^neck', 'head']})),
        ('coc', ['kernel_sizes=>1'], ('CoCConv', {}, {'kernel_sizes': '>1'})),
    ],
)
def test_parse(spec, where, expected):
    if expected[2].get('stem') == 'no':
        with pytest.raises(ConfigError, match=r"--operator 'dcls:where.stem=no': .*where.stem"):
            parse_operator(spec, where)
    else:
        assert parse_operator(spec, where) == OperatorSpec(spec, *expected)


@pytest.mark.parametrize(
    ('spec', 'where', 'words'),
    [
        ('cok', (), ["--operator 'cok'", "did you mean 'ck' or 'coc'?"]),
        ('coc', ['stages'], ["--where 'stages'", 'not KEY=VALUE', '--where stages=2,3']),
        ('coc', ['stage=2,'], ['stage', 'stages']),
        ('coc', ['stages=2'], ['where.stages must be a sequence, got 2', 'write (2,)']),
        ('coc', ['=2'], ['not KEY=VALUE']),
        ('coc', ['where.=2'], ['gives no key']),
        ('coc:where.stages=(1,)', ['stages=2,'], ["'stages=2,' gives a key twice"]),
        ('plain', ['stages=2,'], ['where.stages belongs to an operator']),
    ],
)
def test_misspelt(spec, where, words):
    with pytest.raises(ConfigError) as caught:
        parse_operator(spec, where)
    for word in words:
        assert word in str(caught.value)
    assert '--operators' not in str(caught.value)


def test_every_operator_can_be_named():
    assert {parse_operator(short).operator for short in operator_names()} == set(operator_names().values())


def test_an_operator_for_sequences_cannot_be_placed():
    members = {'_kernel': lambda self: self.weight}
    mmkerv.register_operator('SequenceConv')(type('Line', (GeneratedKernel, Conv1d), members))
    mmkerv.register_operator('ImageConv')(type('Image2d', (GeneratedKernel, Conv2d), members))
    assert operator_names().get('sequence') is None and operator_names()['image'] == 'ImageConv'
