"""The number of classes of the heads against that of the data."""

import pytest
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmkerv.engine.data_checks.label_range_hook import LabelRangeHook, other_class_numbers
from mmkerv.errors import DataError
from tests.engine.small_networks import NETWORKS
from tests.engine.tiny_runner import TinyModel, tiny_runner


class Data:
    def __init__(self, classes, key='classes'):
        self.metainfo = {key: classes}


@pytest.mark.parametrize(
    ('network', 'library', 'heads'),
    [
        ('retinanet', 'mmdet', ['model.bbox_head']),
        ('mask_rcnn', 'mmdet', ['model.roi_head.bbox_head, model.roi_head.mask_head']),
        ('segmentor', 'mmseg', ['model.decode_head', 'model.auxiliary_head.0']),
        ('classifier', 'mmpretrain', ['model.head']),
    ],
)
def test_heads_for_other_classes_than_the_data_are_named(network, library, heads):
    """A head for 80 classes trains on data of 3 without an error."""
    pytest.importorskip(library)
    cfg = NETWORKS[network]()
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    number = 3 if library == 'mmdet' else 4
    assert not other_class_numbers(model, Data(tuple('abcd'[:number])))
    others = other_class_numbers(model, Data(('circle', 'square'), 'CLASSES'))
    assert [other.is_main for other in others] == [True, False][: len(heads)]
    for names, other in zip(heads, others):
        assert other.text.startswith(
            f'{names}: num_classes={number}, but the data of train_dataloader has 2 classes (circle, square); set '
        )


@pytest.mark.parametrize(
    'data',
    [None, object(), Data(None), Data('circle'), Data(())],
    ids=['none', 'no data set', 'no classes', 'a string', 'empty'],
)
def test_nothing_is_compared_without_classes(data):
    head = nn.Linear(1, 1)
    head.num_classes = 80
    model = nn.ModuleDict({'head': head})
    assert not other_class_numbers(model, data) and other_class_numbers(model, Data(('a',)))
    head.class_agnostic = True
    assert not other_class_numbers(model, Data(('a',)))


def of_heads(**numbers: int) -> nn.Module:
    model = nn.ModuleDict({name: nn.Identity() for name in numbers})
    for name, number in numbers.items():
        model[name].num_classes = number
    return model


def test_heads_that_predict_something_else_are_not_refused():
    two, three = Data(('a', 'b')), Data(('a', 'b', 'c'))
    # The head of STDC predicts boundaries; a proposal is of no class; one map tells two classes apart.
    assert [other.is_main for other in other_class_numbers(of_heads(decode_head=3, auxiliary_head=2), three)] == [False]
    assert not other_class_numbers(of_heads(rpn_head=1, bbox_head=3), three)
    assert not other_class_numbers(of_heads(decode_head=1), two)
    assert other_class_numbers(of_heads(bbox_head=1), two) and other_class_numbers(of_heads(decode_head=1), three)
    # The classes of a grounded detector are words.
    assert not other_class_numbers(nn.ModuleDict({**of_heads(bbox_head=256), 'language_model': nn.Identity()}), three)


def test_heads_of_a_panoptic_network_have_a_part_of_the_classes():
    data = Data(tuple(range(133)))
    data.metainfo |= {'thing_classes': tuple(range(80)), 'stuff_classes': tuple(range(53))}
    assert not other_class_numbers(of_heads(bbox_head=80, mask_head=80, semantic_head=54, panoptic_head=133), data)
    assert other_class_numbers(of_heads(bbox_head=81), data)


class Head(TinyModel):
    def __init__(self):
        super().__init__()
        self.head = nn.Identity()
        self.head.num_classes = 80


@pytest.mark.parametrize('hook', [{}, {'other_classes': 'warn'}], ids=['refuse', 'warn'])
def test_a_run_with_another_number_of_classes_is_refused_unless_it_is_meant(tmp_path, hook):
    runner = tiny_runner(tmp_path, Head(), custom_hooks=[dict(type='mmkerv.LabelRangeHook', **hook)])
    runner.train_dataloader.dataset.metainfo = {'classes': ('a', 'b', 'c')}
    text = (
        'model.head: num_classes=80, but the data of train_dataloader has 3 classes (a, b, c); set num_classes=3 there'
    )
    if hook:
        runner.train()
        log = next(tmp_path.rglob('*.log')).read_text()
        assert log.count(f'WARNING - mmkerv: {text}') == 1
        return
    with pytest.raises(DataError) as caught:
        runner.train()
    assert str(caught.value).startswith(text) and "other_classes='warn'" in str(caught.value)


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="other_classes must be one of 'refuse', 'warn', got 'ignore'"):
        LabelRangeHook('ignore')
