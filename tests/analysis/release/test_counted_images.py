"""Samples are counted in the library of the config, also after a network of another one."""

import pytest
from mmengine.config import Config

pytest.importorskip('mmpretrain')

from PIL import Image

from mmkerv.analysis.release.network import counted_images
from mmkerv.engine.scope import enter_scope


def test_the_library_is_that_of_the_config(tmp_path):
    for name in ('a/0.png', 'a/1.png', 'b/0.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new('RGB', (4, 4)).save(tmp_path / name)
    loader = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        # No other library has a data set of this name.
        dataset=dict(type='CustomDataset', data_root=str(tmp_path), pipeline=[]),
    )
    cfg = Config(dict(default_scope='mmpretrain', model=dict(type='ImageClassifier'), train_dataloader=loader))
    enter_scope(Config(dict(default_scope='mmseg')))
    assert counted_images(cfg) == {'train': 3}
