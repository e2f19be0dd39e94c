"""No tool executes code from a checkpoint; the tools that take one are found by their own parsers."""

import argparse
import ast
import contextlib
import importlib.util
import io
import re
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest

from tests.tools.bad_input import CONFIG, MALICIOUS

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(str(file.relative_to(ROOT)) for file in ROOT.glob('tools/**/*.py') if '__main__' in file.read_text())
READS = re.compile(r'checkpoint|state dict|weights|\.pth?\b', re.IGNORECASE)
WRITES = re.compile(r'to write|^folder')
# Settings of a config that name a checkpoint.
BY_CONFIG = ('load_from={malicious}', 'model.backbone.init_cfg.checkpoint={malicious}')

# Commands beyond those that follow from a tool's parser; {malicious} and {good} are checkpoints.
MORE = {
    'tools/train.py': [
        *(f'{{config}} --cfg-options {option}' for option in BY_CONFIG),
        # The newest checkpoint of the work folder is malicious.
        '{config} --work-dir {work} --resume',
    ],
    'tools/plan.py': [f'{{config}} --random-images --cfg-options {option}' for option in BY_CONFIG],
    'tools/model_converters/release_weights.py': ['{work} --out {out}/release --no-test'],
    'tools/model_converters/plain_to_mmkerv.py': ['{malicious} {out}/a.pth --config {config}'],
}
# The network of the good checkpoint is run too; these inputs make it fast.
FASTER = {'tools/visualization/vis_erf.py': '--shape 32 32 --num 1'}
# Values of required arguments, by the beginning of the argument's name.
REQUIRED = {'config': '{config}', 'img': '{image}', 'image': '{image}'}
REQUIRED_OPTIONS = {'--rate': '2'}


class ParserReached(Exception):
    """Carries the parser out of a tool before the tool does anything."""


def load(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, 'path', [*sys.path]):
        spec.loader.exec_module(module)
    return module


def parser_of(script: Path) -> argparse.ArgumentParser:
    def stop(self, *args, **kwargs):
        raise ParserReached(self)

    names = ('parse_args', 'parse_known_args')
    with (
        mock.patch.multiple(argparse.ArgumentParser, **dict.fromkeys(names, stop)),
        pytest.raises(ParserReached) as reached,
    ):
        load(script).main()
    return reached.value.args[0]


def actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the arguments of a parser and its subcommands that name a checkpoint to read."""
    checkpoints = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                checkpoints |= actions(command)
        metavar = ' '.join(action.metavar) if isinstance(action.metavar, tuple) else action.metavar
        text = f'{action.dest} {metavar} {action.help}'
        reads = READS.search(text) and not WRITES.search(action.help or '')
        if reads and action.type is None and action.nargs != 0 and action.dest != 'cfg_options':
            checkpoints[action.dest] = action
    return checkpoints


def commands(tool: str) -> list[str]:
    """Return a command for each argument that names a checkpoint, with a malicious one, and those of ``MORE``."""
    parser = parser_of(ROOT / tool)
    checkpoints, lines = actions(parser), list(MORE.get(tool, []))
    # Those that may be left out for a work folder.
    needed = {network.checkpoint for network in getattr(parser, 'networks', ()) if network.needed}
    for chosen in checkpoints.values():
        words = []
        for action in parser._actions:
            if action is chosen:
                value = '{config} {malicious}' if action.nargs == 2 else '{malicious}'
                words += [action.option_strings[-1], value] if action.option_strings else [value]
            elif not action.option_strings and (action.nargs is None or action.dest in (*needed, 'images')):
                other = '{good}' if action.dest in checkpoints else '{out}/a.pth'
                words.append(next((text for name, text in REQUIRED.items() if action.dest.startswith(name)), other))
            elif action.required and action.option_strings:
                words += [action.option_strings[-1], REQUIRED_OPTIONS[action.option_strings[-1]]]
        lines.append(' '.join(words))
    return lines


def test_tools_that_take_a_checkpoint_are_found():
    tools = {tool for tool in SCRIPTS if commands(tool)}
    assert tools >= {tool for tool, *_ in MALICIOUS.values()} | {'tools/visualization/vis_cam.py'}
    for tool in SCRIPTS:
        options = {option for action in parser_of(ROOT / tool)._actions for option in action.option_strings}
        assert ('--trust-checkpoint' in options) == (tool in tools), tool
    assert '{image} {config} {malicious}' in commands('tools/visualization/vis_cam.py')
    assert '{image} {config} {good} --compare {config} {malicious}' in commands('tools/visualization/vis_cam.py')


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> dict[str, Path]:
    for library in ('mmengine', 'mmcv', 'mmpretrain'):
        pytest.importorskip(library)
    import mmcv
    import numpy as np
    import torch
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    import mmkerv  # noqa: F401
    from tests.malicious_files import execute, hidden, write

    folder = tmp_path_factory.mktemp('hostile')
    for kind in 'abc':
        mmcv.imwrite(np.zeros((32, 32, 3), np.uint8), str(folder / 'data' / kind / '0.png'))
    paths = {'target': folder / 'target', 'config': folder / 'config.py', 'image': folder / 'data' / 'a' / '0.png'}
    paths |= {name: folder / f'{name}.pth' for name in ('malicious', 'good')}
    paths['config'].write_text(CONFIG.format(data=str(folder / 'data'), weights=str(paths['good'])))
    init_default_scope('mmpretrain')
    state = MODELS.build(Config.fromfile(paths['config']).model).state_dict()
    torch.save({'meta': {'epoch': 0, 'iter': 0}, 'message_hub': {}, 'state_dict': state}, paths['good'])
    content = hidden('state_dict', execute(paths['target']))
    write(paths['malicious'], content)
    (folder / 'work').mkdir()
    (folder / 'work' / 'a.py').write_text(paths['config'].read_text())
    newest = write(folder / 'work' / 'epoch_1.pth', content)
    (folder / 'work' / 'last_checkpoint').write_text(str(newest))
    return {**paths, 'work': folder / 'work'}


@pytest.mark.parametrize('tool', SCRIPTS)
def test_malicious_checkpoint_is_not_executed(files, tmp_path, monkeypatch, tool):
    monkeypatch.chdir(tmp_path)
    lines = commands(tool)
    if not lines:
        pytest.skip('tools that take no checkpoint')
    for number, line in enumerate(lines):
        argv = [tool, *line.format_map({**files, 'out': tmp_path}).split(), *FASTER.get(tool, '').split()]
        if tool in ('tools/train.py', 'tools/test.py'):
            argv += [
                *([] if '--cfg-options' in argv else ['--cfg-options']),
                f'experiment_name={tmp_path.name}{number}',
            ]
        module = load(ROOT / tool)
        with (
            mock.patch.object(sys, 'argv', argv),
            contextlib.redirect_stdout(io.StringIO()) as stdout,
            contextlib.redirect_stderr(io.StringIO()) as stderr,
            pytest.raises(SystemExit) as ended,
        ):
            module.run(module.main)
        message = str(ended.value)
        if message == 'error: 1 fault, see above':
            message = f'error: {stdout.getvalue().partition("FAULT")[2]}'.replace('\n', ' ')
        assert re.match(r'error: .*(was not read|no complete checkpoint)', message), (line, message, stderr.getvalue())
        assert 'Nothing of it was executed' in message or 'holds more than weights' in message, message
        assert not files['target'].exists(), line
    assert not [file.name for file in tmp_path.rglob('*') if file.suffix in ('.pth', '.png', '.npz')]


# Functions that unpickle, unpack or evaluate, with the files that may call them; with a dot, of that module only.
READERS = {
    'torch.load': ('mmkerv/engine/checkpoint/safe_load.py',),
    'torch.jit.load': (),
    'pickle.load': (),
    'pickle.loads': (),
    'numpy.load': (),
    'pickle.Unpickler': (),
    'joblib.load': (),
    'load_state_dict_from_url': (),
    'shutil.unpack_archive': (),
    'extractall': (),
    'extract': (),
    'load_checkpoint': ('mmkerv/engine/checkpoint/pretrained.py',),
    'init_detector': (),
    'init_model': (),
    'inference_model': (),
    'get_model': (),
    'eval': (),
    'exec': (),
}
# safe_load recognises the archives that torch would unpack.
ARCHIVES = {'tarfile': ('mmkerv/engine/checkpoint/safe_load.py',), 'zipfile': ()}


def readers(source: str) -> list[tuple[str, int]]:
    """Return the functions above that a program calls or imports, under any name, with their lines."""
    tree, names, calls = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f'{node.module}.{alias.name}' for alias in node.names}
        else:
            continue
        calls += [(module, node.lineno) for module in ARCHIVES if module in ast.unparse(node)]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        head, dot, rest = ast.unparse(node.func).partition('.')
        name = f'{names.get(head, head)}{dot}{rest}'
        last = name.rpartition('.')[2]
        # `model.eval()` is not the builtin.
        key = name if name in READERS else last if last in READERS and last not in ('eval', 'exec') else None
        calls += [(key, node.lineno)] if key else []
    return calls


@pytest.mark.parametrize('folder', ['tools', 'mmkerv', 'benchmarks'])
def test_checkpoints_are_read_in_one_place_and_no_archive_is_unpacked(folder):
    allowed = {**READERS, **ARCHIVES}
    calls = []
    for file in sorted((ROOT / folder).rglob('*.py')):
        name = str(file.relative_to(ROOT))
        calls += [f'{name}:{line} {key}' for key, line in readers(file.read_text()) if name not in allowed[key]]
    assert calls == []


READING = [
    'import torch; torch.load(f)',
    'from torch import load; load(f)',
    'from torch import load as read; read(f)',
    'import numpy as np; np.load(f)',
    'import pickle as p; p.Unpickler(f).load()',
    'from joblib import load; load(f)',
    'torch.hub.load_state_dict_from_url(f)',
    'import tarfile',
    'from zipfile import ZipFile',
    'eval(f)',
    'archive.extractall()',
]


@pytest.mark.parametrize('source', READING)
def test_readers_are_found(source):
    assert readers(source)


def test_other_functions_are_not_readers():
    assert not readers('import json; json.load(f); model.eval(); safe_load(f); torch.save(f)')
