"""The first lines of a training and a test: few, and they say what became of the config."""

import re
from pathlib import Path

import pytest

pytest.importorskip('mmdet')

CONFIG = 'configs/demo/retinanet_coc_shapes.py'
# Lines before the first iteration or image, at most.
LINES = 30


def before(text, first):
    """Return the lines of the output before the first one on progress."""
    lines = text.splitlines()
    return lines[: next(i for i, line in enumerate(lines) if first in line)]


def test_a_training_begins_with_few_lines(trained):
    lines = before((trained / 'log.txt').read_text(), 'Epoch(train)')
    assert len(lines) <= LINES, '\n'.join(lines)
    text = '\n'.join(lines)
    assert (
        'mmkerv: 26 of 34 convolutions -> CoCConv (backbone 17, neck 5, bbox_head 4); kept 6 1x1, '
        '2 without conv_cfg (bbox_head.retina_cls, bbox_head.retina_reg)'
    ) in text
    assert "mmkerv: CoCConv starts with the plain layer's weight, but not as the plain convolution" in text
    assert re.search(r'super_layers of CoCConv \(\d+\): weight decay 0 \(others 0\.05\)', text)
    assert text.count('instances_val2017.json: 2 images, ') == 1 and 'index created' not in text
    assert f'config: {trained}/retinanet_coc_shapes.py' in text and (trained / 'retinanet_coc_shapes.py').is_file()
    (file,) = re.findall(r'environment and hooks: (.*)', text)
    log = Path(file).read_text()
    assert 'System environment:' in log and 'Config:\n' in log and 'Hooks will be executed' in log
    assert all(f'Epoch(train) [1][{i}/3]' in log for i in (1, 2, 3))


@pytest.mark.parametrize('verbose', [False, True], ids=['short', 'verbose'])
def test_a_test_begins_with_few_lines(trained, shapes, run, tmp_path, verbose):
    options = ['--verbose'] if verbose else []
    text = run(
        'tools/test.py', CONFIG, trained / 'epoch_1.pth', '--work-dir', tmp_path, *options,
        '--cfg-options', f'data_root={shapes}', 'default_hooks.logger.interval=1',
    )  # fmt: skip
    lines = before(text, 'Epoch(test)')
    assert (len(lines) <= LINES) != verbose, '\n'.join(lines)
    assert 'convolutions -> CoCConv (backbone ' in text
    assert ('Hooks will be executed' in text) == verbose
    assert 'TypedStorage' not in text
