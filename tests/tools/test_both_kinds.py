"""Every tool and flag on old-style and on pure-Python configs of the same networks: they must do the same.

A pure-Python config names its bases by ``read_base``, its types as classes, and no library (``default_scope = None``).
"""

import re
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')
pytest.importorskip('matplotlib')
import mmengine
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmkerv.deploy.trained_model import built
from mmkerv.engine.config.read import load_config
from tests.tool_process import Done, run_tool
from tests.tools.three_tasks import CONFIGS, FOLDERS, written_data

KINDS = ('old', 'new')
# Of each task, the folder of the data in that of the shapes, an image, and a plain layer.
TASKS = {
    'detection': (FOLDERS['detection'], 'val2017', 'neck.lateral_convs.0.conv'),
    'segmentation': (FOLDERS['segmentation'], 'JPEGImages', 'decode_head.conv_seg'),
    'classification': (FOLDERS['classification'], 'val/circle', 'backbone.conv1'),
}
MODEL, DATA, DRAW = ('{config}', '{checkpoint}'), ('--cfg-options', 'data_root={data}'), 'tools/visualization'
FOLD, ANALYSIS = 'tools/model_converters/reparameterize_model.py', 'tools/analysis_tools'
TEST = ('tools/test.py', *MODEL, '--work-dir', '{out}/work')
TRAIN = ('tools/train.py', '{config}', '--work-dir', '{out}')
METRICS = ('--out', '{out}/m.json', '--out-item', 'metrics')
CAM = (f'{DRAW}/vis_cam.py', '{image}', *MODEL, '--save-path', '{out}/cam.png')


class Case(NamedTuple):
    """A command, the task whose test is in the normal run, and patterns of files that both kinds must write."""

    command: tuple[str, ...]
    fast: str | None
    files: tuple[str, ...] = ()


CASES = {
    'train': Case((*TRAIN, *DATA), 'detection', ('epoch_1.pth', 'NAME.py')),
    'train amp': Case((*TRAIN, '--amp', '--auto-scale-lr', *DATA), None, ('epoch_1.pth',)),
    'train flags': Case(
        (*TRAIN, '--no-validate', '--no-persistent-workers', '--no-pin-memory', *DATA), None, ('epoch_1.pth',)
    ),
    'resume': Case((*TRAIN, '--resume', '{checkpoint}', *DATA, 'train_cfg.max_epochs=2'), None, ('epoch_2.pth',)),
    'test': Case((*TEST, *METRICS, *DATA), 'segmentation', ('m.json',)),
    'test out': Case((*TEST, '--out', '{out}/PREDICTIONS', *DATA), None, ('*pred*',)),
    'test show-dir': Case((*TEST, '--show-dir', '{out}/show', *DATA), 'classification', ('**/show/**/*.*',)),
    'test tta': Case((*TEST, '--tta', *METRICS, *DATA), None, ('m.json',)),
    'test amp': Case((*TEST, '--amp', *METRICS, *DATA), None, ('m.json',)),
    'fold': Case((FOLD, *MODEL, '{out}/deploy.pth', '--shape', '64', '64', *DATA), 'classification', ('deploy.py',)),
    'plain': Case(
        ('tools/model_converters/plain_to_mmkerv.py', '{checkpoint}', '{out}/a.pth', '--config', '{config}'), None
    ),
    'print': Case(('tools/misc/print_config.py', '{config}', '--save-path', '{out}/c.py'), 'segmentation', ('c.py',)),
    'flops': Case((f'{ANALYSIS}/get_flops.py', '{config}', '--num-images', '2', *DATA), None),
    'report': Case((f'{ANALYSIS}/kernel_report.py', '{config}', '--checkpoint', '{checkpoint}', '--shape', '64'), None),
    'statistics': Case((f'{ANALYSIS}/kernel_statistics.py', *MODEL, '--out', '{out}/s.csv'), None, ('s.csv',)),
    **{
        f'browse {mode}': Case(
            (f'{ANALYSIS}/browse_dataset.py', '{config}', '-o', '{out}', '-n', '2', '-m', mode, *DATA), fast, ('*.*',)
        )
        for mode, fast in (('transformed', 'segmentation'), ('pipeline', None), ('original', None))
    },
    **{
        f'benchmark {task}': Case(
            (
                *(f'{ANALYSIS}/benchmark.py', '{config}', '--task', task, '--max-iter', '2', '--num-warmup', '1'),
                *('--work-dir', '{out}', '--device', 'cpu', *DATA),
            ),
            fast,
            ('benchmark_*.json',),
        )
        for task, fast in (('inference', 'detection'), ('dataloader', None), ('dataset', None))
    },
    'cam': Case(CAM, 'classification', ('cam.*',)),
    'erf': Case(
        (f'{DRAW}/vis_erf.py', *MODEL, '--num', '1', '--shape', '64', '64', '--save-path', '{out}/erf.png'),
        None,
        ('erf.png',),
    ),
    'featmap': Case((f'{DRAW}/vis_featmap.py', '{image}', *MODEL, '--out-file', '{out}/maps.png'), None, ('maps.png',)),
    'kernel': Case(
        (f'{DRAW}/vis_kernel.py', *MODEL, '--target-layers', '{layer}', '--save-path', '{out}/k.png'), None, ('k.png',)
    ),
    'response': Case((f'{DRAW}/vis_response.py', *MODEL, '--save-path', '{out}'), None),
}
HUB = {'log_scalars': {}, 'runtime_info': {}, 'resumed_keys': {}}
# What these print differs: environment and times, and the config.
LOGGED = ('tools/train.py', 'tools/test.py', 'tools/misc/print_config.py')
# mmcv's NMS on a CPU takes no bfloat16.
IMPOSSIBLE = {('test amp', 'detection')}
ALL = [
    pytest.param(name, task, marks=[] if CASES[name].fast == task else [pytest.mark.long], id=f'{name}-{task}')
    for name, task in product(CASES, TASKS)
    if (name, task) not in IMPOSSIBLE
]


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """The shapes in the three layouts, below a folder with a blank in its name."""
    return written_data(tmp_path_factory.mktemp('data') / 'two words')


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """A checkpoint of each network, as after an epoch of training."""
    folder, paths = tmp_path_factory.mktemp('checkpoints'), {}
    for task in TASKS:
        torch.manual_seed(0)
        model = built(with_preprocessor(load_config(config(task, 'old'))))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        paths[task] = folder / f'{task}.pth'
        whole = {'meta': {'epoch': 1, 'iter': 2}, 'message_hub': HUB, 'optimizer': optimizer.state_dict()}
        torch.save({**whole, 'state_dict': model.state_dict(), 'param_schedulers': []}, paths[task])
    return paths


def config(task: str, kind: str) -> str:
    return str(CONFIGS / f'{task}_{kind}.py')


def with_preprocessor(cfg: Config) -> Config:
    if cfg.get('data_preprocessor'):
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return cfg


def command(case: Case, task: str, kind: str, data: Path, checkpoint: Path, out: Path) -> list[str]:
    folder, images, layer = TASKS[task]
    words = {'config': config(task, kind), 'checkpoint': checkpoint, 'out': out, 'data': data / folder, 'layer': layer}
    words['image'] = min((data / folder / images).iterdir())
    suffix = '' if task == 'segmentation' else '.pkl'
    return [word.replace('PREDICTIONS', f'pred{suffix}').format(**words) for word in case.command]


def said(done: Done, task: str, kind: str, out: Path) -> list[str]:
    """What a tool has printed, without what differs between two runs: names, times, rates, and the log's dates."""
    text = done.out.replace(str(out), 'OUT').replace(f'{task}_{kind}', 'NAME')
    lines = (line for line in text.splitlines() if line.strip() and not re.match(r'\d\d/\d\d ', line))
    return [re.sub(r'\d+\.\d+', 'N', line) for line in lines]


def listed(out: Path, patterns: tuple[str, ...], task: str, kind: str) -> list[str]:
    files = {file for pattern in patterns for file in out.glob(pattern.replace('NAME', f'{task}_{kind}'))}
    names = (str(file.relative_to(out)).replace(f'{task}_{kind}', 'NAME') for file in files)
    # The folder of a test's pictures has its time.
    return sorted(re.sub(r'\d{8}_\d{6}', 'TIME', name) for name in names)


@pytest.mark.parametrize(('name', 'task'), ALL)
def test_both_kinds_do_the_same(name, task, data, checkpoints, tmp_path):
    case, results = CASES[name], {}
    for kind in KINDS:
        out = tmp_path / kind
        out.mkdir()
        done = run_tool(*command(case, task, kind, data, checkpoints[task], out))
        assert 'Traceback' not in done.err, done.err[-3000:]
        files = listed(out, case.files, task, kind)
        lines = [] if case.command[0] in LOGGED else said(done, task, kind, out)
        results[kind] = done.status, lines, files
        assert not case.files or files, done.out[-2000:] + done.err[-2000:]
    assert results['new'] == results['old']
    same_values(tmp_path, case)
    for file in (tmp_path / 'new').rglob('*.py'):
        readable(file)


def same_values(folder: Path, case: Case) -> None:
    """Compare weights, metrics and arrays."""
    old, new = folder / 'old', folder / 'new'
    for file in old.glob('*.pth'):
        first, second = (torch.load(f, weights_only=False)['state_dict'] for f in (file, new / file.name))
        assert list(first) == list(second)
        assert all(torch.equal(first[key], second[key]) for key in first), file.name
    for file in old.glob('m.json'):
        first, second = mmengine.load(file), mmengine.load(new / file.name)
        assert first.keys() == second.keys() and all(first[k] == second[k] for k in first if 'time' not in k)


def readable(file: Path) -> None:
    """What the tools write is read again by mmengine alone, and builds the same network in any scope."""
    cfg = Config.fromfile(file)
    assert load_config(str(file)).model.to_dict() == cfg.model.to_dict()
    model = with_preprocessor(cfg).model
    scope = DefaultScope.get_instance(f'readable {file}', scope_name=cfg.get('default_scope') or 'mmengine')
    with DefaultScope.overwrite_default_scope(scope.scope_name):
        assert MODELS.build(model) is not None
