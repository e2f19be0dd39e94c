"""Pictures are never written over the data, whatever wraps the data set."""

from types import SimpleNamespace

import pytest

pytest.importorskip('mmengine')

from mmengine.config import Config
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset

from mmkerv.engine.config import evaluation
from mmkerv.engine.data_checks.own_files import require_no_data
from mmkerv.errors import ConfigError


class Masks(BaseDataset):
    def load_data_list(self):
        return [
            dict(img_path=f'{self.data_root}/images/{i}.jpg', seg_map_path=f'{self.data_root}/masks/{i}.png')
            for i in range(2)
        ]


@pytest.fixture
def data(tmp_path):
    for name in ('images/0.jpg', 'masks/0.png', 'pictures/a.png', 'empty/'):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        if not name.endswith('/'):
            (tmp_path / name).touch()
    (tmp_path / 'empty').mkdir(exist_ok=True)
    (tmp_path / 'link').symlink_to(tmp_path / 'masks')
    return Masks(data_root=str(tmp_path))


@pytest.mark.parametrize('wrapped', [lambda d: d, lambda d: RepeatDataset(d, 2), lambda d: ConcatDataset([d, d])])
def test_folders_of_the_data_are_refused(data, wrapped, tmp_path):
    for name, file in (('images', '0.jpg'), ('masks', '0.png'), ('link', '0.png')):
        with pytest.raises(ConfigError, match=rf"--out '.*{name}' holds the data, such as {file}, which would be"):
            require_no_data(wrapped(data), tmp_path / name, '--out')
    for name in ('pictures', 'empty', 'absent', '.'):
        require_no_data(wrapped(data), tmp_path / name, '--out')


def test_a_test_refuses_them(data, monkeypatch, tmp_path):
    runner = SimpleNamespace(
        test_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=data)),
        test=lambda: {'mIoU': 1.0},
        test_evaluator=SimpleNamespace(metrics=[]),
    )
    monkeypatch.setattr(evaluation, 'build_runner', lambda cfg, short_log: runner)
    cfg = {
        scope: Config(dict(default_scope=scope, test_evaluator=dict(type='IoUMetric'))) for scope in ('mmseg', 'mmdet')
    }
    with pytest.raises(ConfigError, match=r'--out .* holds the data, such as 0\.png'):
        evaluation.evaluate(cfg['mmseg'], out=str(tmp_path / 'masks'))
    with pytest.raises(ConfigError, match=r'--show-dir .* holds the data, such as 0\.jpg'):
        evaluation.evaluate(cfg['mmdet'], show_dir=str(tmp_path / 'images'))
    monkeypatch.chdir(tmp_path)
    assert evaluation.evaluate(cfg['mmdet'], show_dir='images') == {'mIoU': 1.0}
    assert evaluation.evaluate(cfg['mmseg'], out=str(tmp_path / 'new')) == {'mIoU': 1.0}
