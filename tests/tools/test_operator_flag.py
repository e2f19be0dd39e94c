"""`--operator` and `--where` of tools/train.py and tools/test.py: from a plain config to the folded network."""

import json

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

from mmengine.config import Config

from tests.tool_process import Done, run_tool
from tests.tools.three_tasks import CONFIGS, FOLDERS, PLAIN

TRAIN, TEST = 'tools/train.py', 'tools/test.py'
FOLD = 'tools/model_converters/reparameterize_model.py'
COC = ('--operator', 'coc:super_init=kaiming', '--where', 'stages=2,3', 'stem=False')


def failed(done: Done) -> str:
    assert done.status == 1 and 'Traceback' not in done.err, done.err[-3000:]
    return done.err


@pytest.mark.parametrize(
    ('task', 'kind'),
    # Each task with one kind of config; the other is for the long run.
    [
        pytest.param('detection', 'old', marks=pytest.mark.slow),
        pytest.param('segmentation', 'new', marks=pytest.mark.slow),
        ('classification', 'old'),
        pytest.param('detection', 'new', marks=pytest.mark.long),
        pytest.param('segmentation', 'old', marks=pytest.mark.long),
        pytest.param('classification', 'new', marks=pytest.mark.long),
    ],
)
def test_train_test_resume_and_fold(data, tmp_path, task, kind):
    config, work = CONFIGS / f'{task}_{kind}.py', tmp_path / 'work'
    options = ('--cfg-options', f'data_root={data / FOLDERS[task]}')
    plain = (*options, *PLAIN[task])

    def run(*words: object, **rest) -> Done:
        done = run_tool(*words, **rest)
        assert done.status == 0, done.err[-3000:]
        return done

    def metrics(*words: object) -> dict:
        out = tmp_path / 'metrics.json'
        run(TEST, *words, '--out', out, '--out-item', 'metrics', '--work-dir', tmp_path / 'test')
        return json.loads(out.read_text())

    done = run(TRAIN, config, '--work-dir', work, *COC, *plain)
    assert '-> CoCConv (' in done.out + done.err
    checkpoint, dumped = work / 'epoch_1.pth', work / config.name
    model = Config.fromfile(dumped).model
    assert (model.type, model.conv_cfg.type, model.where.stages) == ('mmkerv.Converted', 'mmkerv.CoCConv', (2, 3))
    # The config in the work_dir needs no flags; the plain one gives the same network with them.
    assert metrics(dumped, checkpoint, *options) == metrics(config, checkpoint, *COC, *plain)
    resumed = (TRAIN, config, '--work-dir', work, '--resume')
    error = failed(run_tool(*resumed, '--operator', 'coc:super_init=kaiming', '--where', 'stages=2,', *plain))
    assert 'cannot be resumed with other operators: model.conv_cfg was CoCConv(' in error and 'stages' in error
    error = failed(run_tool(*resumed, '--operator', 'kerv', *plain))
    assert 'and is KervConv()' in error
    # A refused run does not write its config over that of the run.
    assert Config.fromfile(dumped).model == model
    error = failed(run_tool(TRAIN, dumped, '--work-dir', work, *COC, *options))
    assert 'has an operator already, model.conv_cfg=CoCConv(' in error, error
    run(*resumed, *COC, *plain, 'train_cfg.max_epochs=2')
    assert (work / 'epoch_2.pth').is_file()
    run(FOLD, dumped, checkpoint, tmp_path / 'deploy.pth', '--shape', '64', '64', *options)
    assert 'mmkerv.Converted' not in (tmp_path / 'deploy.py').read_text()
    assert metrics(tmp_path / 'deploy.py', tmp_path / 'deploy.pth', *options).keys()


def test_flags_that_do_not_fit():
    config = CONFIGS / 'classification_old.py'
    for words, message in (
        (('--where', 'stages=2,'), '--where stages=2, needs an operator to place: add --operator, such as coc'),
        (('--operator', 'cok'), "--operator 'cok': no operator is called 'cok'"),
        (('--operator', 'coc:cfg.train_cfg.max_epochs=1'), 'give --cfg-options train_cfg.max_epochs=1'),
        (('--operator', 'coc'), 'has an operator already, model.backbone.conv_cfg=CKConv()'),
    ):
        assert message in failed(run_tool(TRAIN, config, *words))
