"""The tools as a user runs them: bad input ends in one message, a non-zero status and no partial files."""

import hashlib
import re
import shutil
from pathlib import Path

import pytest

from tests.tool_process import Done, run_tool
from tests.tools.bad_input import BAD_INPUT, CONFIG, EVEN, FOLD, MALICIOUS, PUBLISH, TEST, TRAIN

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(str(file.relative_to(ROOT)) for file in ROOT.glob('tools/**/*.py') if '__main__' in file.read_text())


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> dict[str, Path]:
    """Good and bad input, by name."""
    for library in ('mmengine', 'mmcv', 'mmpretrain'):
        pytest.importorskip(library)
    import mmcv
    import numpy as np
    import torch
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    import mmkerv  # noqa: F401
    from tests.malicious_files import execute, hidden, write

    folder = tmp_path_factory.mktemp('input')
    checkpoints = ('good', 'weights', 'other', 'list', 'text', 'malicious', 'absent')
    paths = {f'{name}.pth': folder / f'{name}.pth' for name in checkpoints}
    paths |= {name: folder / name for name in ('config.py', 'even.py', 'data', 'file', 'target', 'absent')}
    for kind in 'abc':
        mmcv.imwrite(np.zeros((32, 32, 3), np.uint8), str(paths['data'] / kind / '0.png'))
    paths['file'].write_text('a file')
    paths['text.pth'].write_text('no checkpoint\n')
    write(paths['malicious.pth'], hidden('state_dict', execute(paths['target'])))
    paths['config.py'].write_text(CONFIG.format(data=str(paths['data']), weights=str(paths['weights.pth'])))
    paths['even.py'].write_text(EVEN.format(data=str(paths['data'])))
    init_default_scope('mmpretrain')
    state = MODELS.build(Config.fromfile(paths['config.py']).model).state_dict()
    whole = {'meta': {'epoch': 1, 'iter': 2}, 'message_hub': {}, 'state_dict': state, 'optimizer': {'state': {}}}
    torch.save(whole, paths['good.pth'])
    torch.save(state, paths['weights.pth'])
    torch.save({**whole, 'state_dict': {'fc.weight': torch.ones(2, 2)}}, paths['other.pth'])
    torch.save([1, 2], paths['list.pth'])
    return paths


def refused(done: Done, *words: str) -> None:
    """Check for one message on stderr with all of ``words``, no traceback and a non-zero status."""
    output = done.out + done.err
    assert done.status not in (0, None), output[-2000:]
    assert 'Traceback' not in output, output[-3000:]
    messages = re.findall(r'^(?:\S+\.py: )?error: (.*)$', done.err, re.MULTILINE)
    assert len(messages) == 1, done.err[-3000:]
    assert done.err.rstrip().endswith(messages[0]), 'the message comes last'
    for text in words:
        assert text in messages[0], (text, messages[0])


def outputs(folder: Path) -> list[str]:
    """The files in a folder, without logs and the dumped config of the runner."""
    files = (p for p in folder.rglob('*') if p.is_file() and p.suffix not in ('.log', '.json'))
    return [p.name for p in files if p.name != 'config.py']


def filled(text: str, files: dict[str, Path], out: Path) -> str:
    for name, path in files.items():
        text = text.replace(f'{{{name}}}', str(path))
    return text.replace('{out}', str(out))


@pytest.mark.parametrize('case', BAD_INPUT)
def test_bad_input_ends_in_one_message(files, tmp_path, case):
    if case.startswith('even'):
        pytest.importorskip('mmseg')
    command, words = BAD_INPUT[case]
    out = tmp_path / 'out'
    done = run_tool(*(filled(argument, files, out) for argument in command))
    refused(done, *(filled(text, files, out) for text in words))
    assert outputs(tmp_path) == []
    assert files['file'].read_text() == 'a file'


@pytest.mark.parametrize('tool', MALICIOUS)
def test_malicious_checkpoint_is_not_executed(files, tmp_path, tool):
    done = run_tool(*(filled(argument, files, tmp_path / 'out') for argument in MALICIOUS[tool]))
    refused(
        done, f"checkpoint '{files['malicious.pth']}' was not read", 'Nothing of it was executed', '--trust-checkpoint'
    )
    assert not files['target'].exists() and outputs(tmp_path) == []


def test_malicious_checkpoint_is_executed_with_trust_checkpoint(files, tmp_path):
    """Without this the test above would show nothing."""
    run_tool(*(filled(argument, files, tmp_path / 'out') for argument in MALICIOUS['resume']), '--trust-checkpoint')
    assert files['target'].exists()
    files['target'].unlink()


@pytest.mark.parametrize('tool', TOOLS)
def test_help_imports_nothing_large(tool):
    done = run_tool('-X', 'importtime', tool, '-h')
    assert done.status == 0 and done.out.startswith('usage: ') and '--' in done.out
    imported = {line.rpartition('|')[2].strip() for line in done.err.splitlines() if line.startswith('import time:')}
    assert 'argparse' in imported
    packages = {name.partition('.')[0] for name in imported}
    assert not packages & {'torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'}


@pytest.mark.parametrize('tool', TOOLS)
def test_help_needs_no_installation(tool, tmp_path):
    """A tool runs the package beside it, from any folder, whatever is installed."""
    done = run_tool('-S', '-E', ROOT / tool, '-h', cwd=tmp_path)
    assert done.status == 0 and done.out.startswith('usage: '), done.err


def test_tools_are_found():
    assert {TRAIN, TEST, FOLD, PUBLISH} <= set(TOOLS)


def test_publish(files, tmp_path):
    import torch

    out = tmp_path / 'models' / 'resnet18_coc.pth'
    done = run_tool(PUBLISH, files['good.pth'], out)
    assert done.status == 0, done.err
    (published,) = (tmp_path / 'models').iterdir()
    assert published.name == f'resnet18_coc-{hashlib.sha256(published.read_bytes()).hexdigest()[:8]}.pth'
    assert done.out == f'kept meta, state_dict; published {published}\n'
    kept, whole = torch.load(published, weights_only=True), torch.load(files['good.pth'], weights_only=True)
    assert list(kept) == ['meta', 'state_dict'] and kept['meta'] == whole['meta']
    torch.testing.assert_close(kept['state_dict'], whole['state_dict'], rtol=0, atol=0)


@pytest.fixture
def work(files, tmp_path) -> Path:
    """The work folder of a training, as the runner leaves it."""
    folder = tmp_path / 'work'
    folder.mkdir()
    shutil.copy(files['config.py'], folder / 'my_config.py')
    shutil.copy(files['good.pth'], folder / 'epoch_1.pth')
    (folder / 'last_checkpoint').write_text('/elsewhere/epoch_1.pth')
    return folder


def test_fold_of_a_work_folder(work, tmp_path):
    done = run_tool(FOLD, work, tmp_path / 'deploy.pth', '--shape', 32, 32)
    assert done.status == 0, done.err
    assert f'mmkerv: {work}: config my_config.py, checkpoint epoch_1.pth (the last one)' in done.err.splitlines()
    assert 'folded 17 operators' in done.out and (tmp_path / 'deploy.py').is_file()


def test_test_of_a_work_folder_leaves_its_config(work):
    before = (work / 'my_config.py').read_bytes()
    done = run_tool(TEST, work, '--cfg-options', 'test_dataloader.batch_size=3')
    assert done.status == 0, done.err
    assert (work / 'my_config.py').read_bytes() == before
    assert 'batch_size=3' in (work / 'test' / 'my_config.py').read_text().replace(' ', '')


def test_a_moved_run_is_resumed_where_it_is(files, work):
    """Its own checkpoint, here a damaged one, is read, and not that of the folder that the config names."""
    config, elsewhere = work / 'my_config.py', work.parent / 'elsewhere'
    config.write_text(config.read_text() + f'work_dir = {str(elsewhere)!r}\n')
    shutil.copy(files['text.pth'], work / 'epoch_1.pth')
    done = run_tool(TRAIN, config, '--resume')
    refused(done, f'--resume found no complete checkpoint in {work}: {work / "epoch_1.pth"} cannot be read')
    assert f'mmkerv: resuming in {work}, where the config and last_checkpoint are, not in' in done.out + done.err
    assert not elsewhere.exists()


@pytest.mark.parametrize('from_config', [True, pytest.param(False, marks=pytest.mark.long)])
def test_test_of_a_config_leaves_that_of_the_training(work, from_config):
    """Also where the config names the folder, and a model that is wrapped for augmentation is written there."""
    config = work / 'my_config.py'
    folder = work if from_config else work / 'work_dirs' / 'my_config'
    if from_config:
        config.write_text(config.read_text() + f'work_dir = {str(work)!r}\n')
    before = config.read_bytes()
    done = run_tool(ROOT / TEST, config, work / 'epoch_1.pth', '--tta', cwd=work)
    assert done.status == 0, done.err
    assert config.read_bytes() == before
    written = folder / 'test' / 'my_config.py'
    assert 'AverageClsScoreTTA' in written.read_text()
    done = run_tool(FOLD, written, work / 'epoch_1.pth', work / 'folded.pth', '--shape', 32, 32)
    assert done.status == 0 and 'folded 17 operators' in done.out, done.err


def test_fold(files, tmp_path):
    out = tmp_path / 'folded' / 'deploy.pth'
    done = run_tool(FOLD, files['config.py'], files['good.pth'], out, '--shape', 32, 32)
    assert done.status == 0, done.err
    assert sorted(p.name for p in out.parent.iterdir()) == ['deploy.pth', 'deploy.py']
    for words in (
        'mmkerv: folded 17 operators into plain convolutions; kept 0',
        '|K - W| / |W| of the folded operators: 0 to 0',
        'largest difference of the raw outputs, relative: 0.00e+00 on a random input\n',
        f'checkpoint: {out}',
        f'config:     {out.with_suffix(".py")}',
    ):
        assert words in done.out
