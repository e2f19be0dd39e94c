"""The number of classes of the heads against that of the data."""

import pytest
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmkerv.engine.data_checks.label_range_hook import other_class_numbers
from tests.engine.small_networks import NETWORKS
from tests.engine.tiny_runner import TinyModel, tiny_runner


class Data:
    def __init__(self, classes, key='classes'):
        self.metainfo = {key: classes}


@pytest.mark.parametrize(
    ('network', 'library', 'heads'),
    [
        ('retinanet', 'mmdet', 'bbox_head'),
        ('mask_rcnn', 'mmdet', 'roi_head.bbox_head, roi_head.mask_head'),
        ('segmentor', 'mmseg', 'decode_head, auxiliary_head.0'),
        ('classifier', 'mmpretrain', 'head'),
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
    (note,) = other_class_numbers(model, Data(('circle', 'square'), 'CLASSES'))
    assert note.startswith(f'{heads}: num_classes={number}, but Data has 2 classes (circle, square); set num_classes=2')


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


def test_a_run_warns_once(tmp_path, caplog):
    class Head(TinyModel):
        def __init__(self):
            super().__init__()
            self.head = nn.Identity()
            self.head.num_classes = 80

    runner = tiny_runner(tmp_path, Head(), custom_hooks=[dict(type='mmkerv.LabelRangeHook')])
    runner.train_dataloader.dataset.metainfo = {'classes': ('a', 'b', 'c')}
    runner.train()
    log = next(tmp_path.rglob('*.log')).read_text()
    assert log.count('WARNING - mmkerv: head: num_classes=80, but RandomImages has 3 classes (a, b, c)') == 1
