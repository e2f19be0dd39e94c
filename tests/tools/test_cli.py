"""The tools as a user runs them: bad input ends in one message, a status that is not 0, and nothing half-written."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRAIN, TEST = 'tools/train.py', 'tools/test.py'
FOLD, PUBLISH = 'tools/model_converters/reparameterize_model.py', 'tools/model_converters/publish_model.py'
TOOLS = sorted(str(file.relative_to(ROOT)) for file in ROOT.glob('tools/**/*.py') if '__main__' in file.read_text())

# A classifier that is built in no time. The data set is never opened: what is wrong is found before.
CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmkerv'], allow_failed_imports=False)
data_root = {data!r}
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8, conv_cfg=dict(type='CoCConv'),
                  init_cfg=dict(type='Pretrained', checkpoint={weights!r}, prefix='backbone.')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', in_channels=64, num_classes=3),
)
train_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_root=data_root, pipeline=[dict(type='PackInputs')]),
)
val_dataloader = test_dataloader = train_dataloader
val_evaluator = test_evaluator = dict(type='Accuracy')
train_cfg = dict(max_epochs=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
"""
# Its head takes a kernel size, and a super kernel has no centre for an even one.
EVEN = """
default_scope = 'mmseg'
data_root = {data!r}
model = dict(
    type='EncoderDecoder',
    backbone=dict(type='ResNetV1c', depth=18, base_channels=8),
    decode_head=dict(type='FCNHead', in_channels=64, in_index=3, channels=8, num_classes=2, kernel_size=2,
                     conv_cfg=dict(type='mmkerv.CoCConv', dilate=True)),
)
train_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='BaseSegDataset', data_root=data_root, pipeline=[]),
)
train_cfg = dict(max_epochs=1)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
"""


class Done(NamedTuple):
    status: int
    out: str
    err: str


def run(*command: object, cwd: Path = ROOT, python: tuple[str, ...] = ()) -> Done:
    done = subprocess.run(
        [sys.executable, *python, *map(str, command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> dict[str, Path]:
    """Good and bad input, by name."""
    for library in ('mmengine', 'mmcv', 'mmpretrain'):
        pytest.importorskip(library)
    import torch
    from bombs import execute, hidden, write
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    import mmkerv  # noqa: F401

    folder = tmp_path_factory.mktemp('input')
    given = {
        name: folder / name for name in ('other.pth', 'list.pth', 'text.pth', 'weights.pth', 'good.pth', 'bomb.pth')
    }
    given |= {
        name: folder / name for name in ('config.py', 'even.py', 'data', 'file', 'target', 'absent', 'absent.pth')
    }
    given['data'].mkdir()
    given['file'].write_text('a file')
    given['text.pth'].write_text('no checkpoint\n')
    write(given['bomb.pth'], hidden('state_dict', execute(given['target'])))
    given['config.py'].write_text(CONFIG.format(data=str(given['data']), weights=str(given['weights.pth'])))
    given['even.py'].write_text(EVEN.format(data=str(given['data'])))
    init_default_scope('mmpretrain')
    state = MODELS.build(Config.fromfile(given['config.py']).model).state_dict()
    whole = {'meta': {'epoch': 1, 'iter': 2}, 'message_hub': {}, 'state_dict': state, 'optimizer': {'state': {}}}
    torch.save(whole, given['good.pth'])
    torch.save(state, given['weights.pth'])
    torch.save({**whole, 'state_dict': {'fc.weight': torch.ones(2, 2)}}, given['other.pth'])
    torch.save([1, 2], given['list.pth'])
    return given


def refused(done: Done, *says: str) -> None:
    """One message on stderr that says all of ``says``, no traceback, a status that is not 0."""
    output = done.out + done.err
    assert done.status not in (0, None), output[-2000:]
    assert 'Traceback' not in output, output[-3000:]
    messages = re.findall(r'^(?:\S+\.py: )?error: (.*)$', done.err, re.MULTILINE)
    assert len(messages) == 1, done.err[-3000:]
    assert done.err.rstrip().endswith(messages[0]), 'the message is the last word'
    for words in says:
        assert words in messages[0], (words, messages[0])


def left(folder: Path) -> list[str]:
    """What lies in a folder but logs."""
    logs = ('.log', '.json')
    return [p.name for p in folder.rglob('*') if p.is_file() and p.suffix not in logs and p.parent.name != 'vis_data']


OPTIONS = '--cfg-options'
CONV = 'model.backbone.conv_cfg'
# Tool, arguments ({name} is a file, {out} the output folder), what the message says.
BAD_INPUT = {
    'unknown argument': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, f'{CONV}.asociation=3'),
        (f'{CONV}: ', "'asociation'", "did you mean 'association'?", 'Its arguments are: ', f'{CONV}.ARGUMENT=VALUE'),
    ),
    'association < 1': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, f'{CONV}.association=0'),
        (f'{CONV}: association must be >= 1, got 0', f'{OPTIONS} {CONV}.ARGUMENT=VALUE'),
    ),
    'odd kernel_plus': (
        (FOLD, '{config.py}', '{good.pth}', '{out}/deploy.pth', OPTIONS, f'{CONV}.kernel_plus=3'),
        (f'{CONV}: kernel_plus must be even, got 3; use 2 or 4',),
    ),
    'even kernel with dilate': (
        (TRAIN, '{even.py}', '--work-dir', '{out}'),
        ('kernel_size must be odd', 'got 2', 'use an odd size, or keep this layer a plain Conv2d'),
    ),
    'unregistered operator': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, f'{CONV}.type=CoCConf'),
        ('Cannot find', 'registry', "Use type='mmkerv.CoCConv'"),
    ),
    'missing data root': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, 'data_root={absent}'),
        ('train_dataloader.dataset.data_root: ', "{absent}/' does not exist", '--cfg-options data_root=DIR'),
    ),
    'missing data root of the test': (
        (TEST, '{config.py}', '{good.pth}', '--work-dir', '{out}', OPTIONS, 'data_root={absent}'),
        ('test_dataloader.dataset.data_root: ', "{absent}/' does not exist", '--cfg-options data_root=DIR'),
    ),
    'missing checkpoint to test': (
        (TEST, '{config.py}', '{absent.pth}', '--work-dir', '{out}'),
        ("checkpoint '{absent.pth}' does not exist; give the path of a .pth file",),
    ),
    'missing checkpoint to resume': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', '--resume', '{absent.pth}'),
        ("checkpoint '{absent.pth}' does not exist; give the path of a .pth file",),
    ),
    'missing checkpoint to start from': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, 'load_from={absent.pth}'),
        ("checkpoint '{absent.pth}' does not exist; give the path of a .pth file",),
    ),
    'missing checkpoint of the backbone': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, 'model.backbone.init_cfg.checkpoint={absent.pth}'),
        ("checkpoint '{absent.pth}' does not exist; give the path of a .pth file",),
    ),
    'missing checkpoint to fold': (
        (FOLD, '{config.py}', '{absent.pth}', '{out}/deploy.pth'),
        ("checkpoint '{absent.pth}' does not exist; give the path of a .pth file",),
    ),
    'missing checkpoint to publish': (
        (PUBLISH, '{absent.pth}', '{out}/published.pth'),
        ("checkpoint '{absent.pth}' does not exist; give the path of a .pth file",),
    ),
    'missing config to train': (
        (TRAIN, '{absent}', '--work-dir', '{out}'),
        ("config '{absent}' does not exist; give the path of a config file",),
    ),
    'missing config to test': (
        (TEST, '{absent}', '{good.pth}', '--work-dir', '{out}'),
        ("config '{absent}' does not exist; give the path of a config file",),
    ),
    'missing config to fold': (
        (FOLD, '{absent}', '{good.pth}', '{out}/deploy.pth'),
        ("config '{absent}' does not exist; give the path of a config file",),
    ),
    'checkpoint of another network to test': (
        (TEST, '{config.py}', '{other.pth}', '--work-dir', '{out}'),
        ("checkpoint '{other.pth}' is not of the network of the config", 'missing (backbone.conv1', 'Give the config'),
    ),
    'checkpoint of another network to resume': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', '--resume', '{other.pth}'),
        ("checkpoint '{other.pth}' is not of the network of the config", '1 unexpected (fc.weight)', 'Give the config'),
    ),
    'checkpoint of another network to start from': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, 'load_from={other.pth}'),
        ("checkpoint '{other.pth}' shares no parameter with the network of the config", 'Leave load_from out'),
    ),
    'checkpoint of another network to fold': (
        (FOLD, '{config.py}', '{other.pth}', '{out}/deploy.pth'),
        ("checkpoint '{other.pth}' is not of the network of the config", 'Give the config it was trained with'),
    ),
    'weights alone to resume': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', '--resume', '{weights.pth}'),
        ("checkpoint '{weights.pth}' cannot be resumed", '--cfg-options load_from={weights.pth}, without --resume'),
    ),
    'list to fold': (
        (FOLD, '{config.py}', '{list.pth}', '{out}/deploy.pth'),
        ("checkpoint '{list.pth}' holds a list, not parameters by name",),
    ),
    'list to publish': ((PUBLISH, '{list.pth}', '{out}/published.pth'), ('the checkpoint holds a list',)),
    'pair without =': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, 'data_root'),
        ("--cfg-options takes key=value pairs, got 'data_root'",),
    ),
    'pair that is too long': (
        (
            TEST,
            '{config.py}',
            '{good.pth}',
            '--work-dir',
            '{out}',
            OPTIONS,
            'train_dataloader.dataset.pipeline.9.type=A',
        ),
        ('--cfg-options train_dataloader.dataset.pipeline.9.type=A does not fit', 'Index 9 exceeds', 'Change the keys'),
    ),
    'pair into a string': (
        (FOLD, '{config.py}', '{good.pth}', '{out}/deploy.pth', OPTIONS, 'model.type.name=A'),
        ('--cfg-options model.type.name=A does not fit', '{config.py}', 'Change the keys'),
    ),
    'wrong suffix of predictions': (
        (TEST, '{config.py}', '{good.pth}', '--work-dir', '{out}', '--out', '{out}/a.txt'),
        ("--out must end in .pkl for pred, got '{out}/a.txt'",),
    ),
    'wrong suffix of metrics': (
        (TEST, '{config.py}', '{good.pth}', '--work-dir', '{out}', '--out', '{out}/a.csv', '--out-item', 'metrics'),
        ("--out must end in .json, .yaml or .pkl for metrics, got '{out}/a.csv'",),
    ),
    'wrong suffix of the folded network': (
        (FOLD, '{config.py}', '{good.pth}', '{out}/deploy.onnx'),
        ("save_path must end in .pth, got '{out}/deploy.onnx'",),
    ),
    'nothing to hold what --out-item says': (
        (TEST, '{config.py}', '{good.pth}', '--out-item', 'metrics'),
        ('--out-item says what --out holds: give --out FILE too',),
    ),
    'missing images': (
        (FOLD, '{config.py}', '{good.pth}', '{out}/deploy.pth', '--images', '{absent}', '--shape', '32', '32'),
        ("--images '{absent}' is not a folder",),
    ),
    'tolerance that nothing meets': (
        (FOLD, '{config.py}', '{good.pth}', '{out}/deploy.pth', '--tolerance', '-1', '--shape', '32', '32'),
        ('{good.pth}: the folded network differs by', 'more than -1e+00', 'nothing was written'),
    ),
    'file as work folder': (
        (TEST, '{config.py}', '{good.pth}', '--work-dir', '{file}'),
        ('{file}',),
    ),
    'unknown keys to publish': (
        (PUBLISH, '{good.pth}', '{out}/published.pth', '--save-keys', 'meta', 'optimiser'),
        ('--save-keys: the checkpoint has no optimiser; it has meta, message_hub, state_dict, optimizer',),
    ),
    'raw weights that are not there': (
        (PUBLISH, '{good.pth}', '{out}/published.pth', '--no-ema'),
        ('--no-ema: the checkpoint has no ema_state_dict', 'leave the flag out'),
    ),
    'precision of an unknown wrapper': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', '--amp', OPTIONS, 'optim_wrapper.type=Mine'),
        ("--amp needs optim_wrapper.type='OptimWrapper', got 'Mine'",),
    ),
    'learning rate of an unknown batch': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', '--auto-scale-lr'),
        ('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config',),
    ),
    'text to test': (
        (TEST, '{config.py}', '{text.pth}', '--work-dir', '{out}'),
        ("checkpoint '{text.pth}' was not read: it is damaged", '--trust-checkpoint'),
    ),
    'text to test, trusted': (
        (TEST, '{config.py}', '{text.pth}', '--work-dir', '{out}', '--trust-checkpoint'),
        ("checkpoint '{text.pth}' was not read: it is damaged",),
    ),
}


def filled(text: str, files: dict[str, Path], out: Path) -> str:
    for name, path in files.items():
        text = text.replace(f'{{{name}}}', str(path))
    return text.replace('{out}', str(out))


@pytest.mark.parametrize('case', BAD_INPUT)
def test_bad_input_ends_in_one_message(files, tmp_path, case):
    if case.startswith('even'):
        pytest.importorskip('mmseg')
    command, says = BAD_INPUT[case]
    out = tmp_path / 'out'
    done = run(*(filled(argument, files, out) for argument in command))
    refused(done, *(filled(words, files, out) for words in says))
    assert left(tmp_path) == []
    assert files['file'].read_text() == 'a file'


BOMBED = {
    'test': (TEST, '{config.py}', '{bomb.pth}', '--work-dir', '{out}'),
    'resume': (TRAIN, '{config.py}', '--work-dir', '{out}', '--resume', '{bomb.pth}'),
    'load_from': (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, 'load_from={bomb.pth}'),
    'backbone': (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, 'model.backbone.init_cfg.checkpoint={bomb.pth}'),
    'fold': (FOLD, '{config.py}', '{bomb.pth}', '{out}/deploy.pth'),
    'publish': (PUBLISH, '{bomb.pth}', '{out}/published.pth'),
}


@pytest.mark.parametrize('tool', BOMBED)
def test_bomb_is_not_set_off(files, tmp_path, tool):
    done = run(*(filled(argument, files, tmp_path / 'out') for argument in BOMBED[tool]))
    refused(done, f"checkpoint '{files['bomb.pth']}' was not read", 'Nothing of it was executed', '--trust-checkpoint')
    assert not files['target'].exists() and left(tmp_path) == []


@pytest.mark.parametrize('tool', ['resume', 'publish'])
def test_bomb_is_set_off_only_on_demand(files, tmp_path, tool):
    """The bomb is live, and --trust-checkpoint does what it says."""
    run(*(filled(argument, files, tmp_path / 'out') for argument in BOMBED[tool]), '--trust-checkpoint')
    assert files['target'].exists()
    files['target'].unlink()


@pytest.mark.parametrize('tool', TOOLS)
def test_help_imports_nothing_large(tool):
    done = run(tool, '-h', python=('-X', 'importtime'))
    assert done.status == 0 and done.out.startswith('usage: ') and '--' in done.out
    imported = {line.rpartition('|')[2].strip() for line in done.err.splitlines() if line.startswith('import time:')}
    assert 'argparse' in imported
    assert not {name.partition('.')[0] for name in imported} & {'torch', 'numpy', 'mmengine', 'mmcv', 'mmkerv'}


def test_tools_are_found():
    assert {TRAIN, TEST, FOLD, PUBLISH} <= set(TOOLS)


def test_publish(files, tmp_path):
    import torch

    out = tmp_path / 'models' / 'resnet18_coc.pth'
    done = run(PUBLISH, files['good.pth'], out)
    assert done.status == 0, done.err
    (published,) = (tmp_path / 'models').iterdir()
    assert published.name == f'resnet18_coc-{hashlib.sha256(published.read_bytes()).hexdigest()[:8]}.pth'
    assert done.out == f'kept meta, state_dict; published {published}\n'
    kept, whole = torch.load(published, weights_only=True), torch.load(files['good.pth'], weights_only=True)
    assert list(kept) == ['meta', 'state_dict'] and kept['meta'] == whole['meta']
    torch.testing.assert_close(kept['state_dict'], whole['state_dict'], rtol=0, atol=0)


def test_fold(files, tmp_path):
    out = tmp_path / 'folded' / 'deploy.pth'
    done = run(FOLD, files['config.py'], files['good.pth'], out, '--shape', 32, 32)
    assert done.status == 0, done.err
    assert sorted(p.name for p in out.parent.iterdir()) == ['deploy.pth', 'deploy.py']
    for words in (
        'mmkerv: folded 17 operators into plain convolutions; kept 0',
        '|K - W| / |W| of the folded operators: 0 to 0',
        'largest difference of the raw outputs, relative: 0.00e+00 on 1 inputs',
        f'checkpoint: {out}',
        f'config:     {out.with_suffix(".py")}',
    ):
        assert words in done.out
