"""Variants as the command line names them, and the errors of misspelt ones."""

import pytest

pytest.importorskip('mmengine')

from mmkerv.analysis.comparison.variant import Variant, parse_variant, parse_variants
from mmkerv.engine.config.operator_spec import operator_names
from mmkerv.errors import ConfigError


@pytest.mark.parametrize(
    ('spec', 'variant'),
    [
        ('plain', (None, {}, {}, {})),
        ('coc', ('CoCConv', {}, {}, {})),
        ('CoCConv', ('CoCConv', {}, {}, {})),
        ('coc:super_init=kaiming', ('CoCConv', {'super_init': 'kaiming'}, {}, {})),
        ('kerv:where.stages=()', ('KervConv', {}, {'stages': ()}, {})),
        (
            'kerv:kernel=polynomial,degree=2,where.stages=(1,2),where.stem=false',
            ('KervConv', {'kernel': 'polynomial', 'degree': 2}, {'stages': (1, 2), 'stem': False}, {}),
        ),
        (
            "coc:where.names=('layer1, x','[ab]'),cfg.optim_wrapper.optimizer.lr=1e-3",
            ('CoCConv', {}, {'names': ('layer1, x', '[ab]')}, {'optim_wrapper.optimizer.lr': 1e-3}),
        ),
        (
            'plain:cfg.optim_wrapper.optimizer.type=AdamW',
            (None, {}, {}, {'optim_wrapper.optimizer.type': 'AdamW'}),
        ),
    ],
)
def test_parse(spec, variant):
    assert parse_variant(spec) == Variant(spec, *variant)


@pytest.mark.parametrize(
    ('spec', 'words'),
    [
        ('cok', ["no operator is called 'cok'", "did you mean 'ck' or 'coc'?", 'plain, ']),
        ('cocc', ["did you mean 'coc'? Use"]),
        ('dcsl', ["did you mean 'dcls'"]),
        ('kervconv1d', ["no operator is called 'kervconv1d'"]),
        ('', ["no operator is called ''"]),
        ('coc:super_init', ["'super_init' is not KEY=VALUE"]),
        ('coc:super_init=kaimin', ['super_init', 'kaiming']),
        ('coc:superinit=kaiming', ['superinit', 'super_init']),
        ('coc:where.stage=(1,)', ['stage', 'stages']),
        ('coc:where.stages=1', ['where.stages']),
        ('coc:where.stages=(1', ['brackets are not in pairs']),
        ('coc:where.stages=1)', ['brackets are not in pairs']),
        ("coc:where.names=('a", ['quotes are not in pairs']),
        ('coc:cfg.=1', ['gives no key']),
        ('coc:degree=1,degree=2', ['a key twice']),
        ('plain:degree=2', ['degree belongs to an operator']),
        ('plain:where.stages=()', ['where.stages belongs to an operator']),
        ('plain:cfg.train_cfg.max_epochs=3', ['cfg.train_cfg.max_epochs', 'use --epochs N']),
        ('coc:cfg.train_cfg.max_iters=3', ['cfg.train_cfg.max_iters', 'use --iters N']),
        ("coc:cfg.data_root='/a'", ['has no effect', 'use --cfg-options data_root=DIR']),
    ],
)
def test_misspelt(spec, words):
    with pytest.raises(ConfigError) as caught:
        parse_variant(spec)
    for word in ['--operators', repr(spec), *words]:
        assert word in str(caught.value)


def test_same_variant_twice():
    with pytest.raises(ConfigError, match='same folder'):
        parse_variants(['coc', 'plain', 'COC'])


def test_folders_are_names_of_files():
    folders = [
        v.folder for v in parse_variants(['plain', "coc:cfg.load_from='/a/b'", 'coc:where.stages=()', 'kerv:degree=3'])
    ]
    assert folders == ['plain', 'coc-cfg.load_from=-a-b', 'coc-where.stages=', 'kerv-degree=3']


def test_every_two_dimensional_operator_has_a_short_name():
    names = operator_names()
    assert {'coc': 'CoCConv', 'ck': 'CKConv', 'flex': 'FlexConv', 'p': 'PConv', 'condconv': 'CondConv'}.items() <= set(
        names.items()
    )
    assert not [name for name in names.values() if name.endswith('1d')]
