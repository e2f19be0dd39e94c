"""The examples in README.md and docs/ work: Python runs, configs build, commands parse, paths exist."""

import argparse
import importlib.util
import re
import sys
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.blocks import PAGES, ROOT, Block, blocks, blocks_of, commands

PYTHON, SHELL = blocks('python'), blocks('bash')
# Where the modules are that a config of the pages adds to a model.
OURS = ('mmkerv.ops', 'mmkerv.models.lsk_block')
# Other programs, whose arguments are not checked.
OTHERS = {'cd', 'git', 'pip', 'uv', 'export', 'chromium', 'tensorboard', 'xdg-open'}
PRINTED = re.compile(r'^print\(.*\)  # (mmkerv: .*)$', re.MULTILINE)
# Paths in the repository that a page may name.
PATH = re.compile(r'(?:configs|tools|benchmarks|tests|mmkerv|requirements)/[\w./*{},-]*')


@pytest.mark.parametrize('block', PYTHON, ids=str)
def test_python(block: Block, monkeypatch, tmp_path, capsys):
    code = compile(block.code, str(block), 'exec')
    if block.key == 'not run':
        pytest.skip(f'{block} is only compiled: {block.value}')
    pytest.importorskip('mmengine')
    if re.search(r'^import timm$', block.code, re.MULTILINE):
        # The environment of the original distribution has none.
        pytest.importorskip('timm')
    from mmengine.registry import DefaultScope

    # Blocks name files relative to the root of a clone, and some write files.
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(DefaultScope, '_instance_dict', DefaultScope._instance_dict.copy())
    if '_base_' in block.code or block.key == 'goes into':
        build(block, tmp_path)
    else:
        namespace = {'__name__': 'docs_block'}
        exec(code, namespace)
        check_operators(namespace.get('model'))
        # A comment after print() that begins as our messages do is what is printed.
        printed = capsys.readouterr().out.splitlines()
        assert [line for line in PRINTED.findall(block.code) if line not in printed] == []


def check_operators(model) -> None:
    """Check that a fragment of a config names existing operators and arguments."""
    if isinstance(model, dict):
        from mmkerv.engine.config.check import check_operators as check

        check(model, 'model')


def build(block: Block, folder: Path) -> None:
    """Read the block as a config or as a change of one, and build the model."""
    for library in ('mmdet', 'mmseg', 'mmpretrain'):
        pytest.importorskip(library)
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    import mmkerv

    assert mmkerv.registry.OPERATORS
    base = '' if block.key != 'goes into' else f'_base_ = {based(block.value)!r}\n'
    file = folder / 'config.py'
    file.write_text(base + block.code)
    cfg = Config.fromfile(file)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    if cfg.get('data_preprocessor'):
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    assert any(type(m).__module__.startswith(OURS) for m in MODELS.build(cfg.model).modules())


def based(config: str) -> str:
    return config if '::' in config else str(ROOT / config)


class Parsed(Exception):
    """The parser accepted the arguments."""


def load(script: Path, monkeypatch) -> ModuleType:
    monkeypatch.setattr(sys, 'path', [str(script.parent), str(ROOT / 'benchmarks'), *sys.path])
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(module: ModuleType, arguments: list[str], monkeypatch) -> None:
    """Pass the arguments to the command's own parser."""
    monkeypatch.setattr(sys, 'argv', [module.__name__, *arguments])
    real = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *args, **kwargs):
        real(self, *args, **kwargs)
        raise Parsed

    with monkeypatch.context() as patched, pytest.raises(Parsed):
        patched.setattr(argparse.ArgumentParser, 'parse_args', stop)
        module.main()


def check(command: list[str], monkeypatch) -> None:
    """Raise if a command of this project does not exist or its parser refuses the arguments."""
    program, *arguments = command
    if program == 'make':
        targets = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
        wanted = {word for word in arguments if not word.startswith('-') and '=' not in word}
        assert wanted <= targets, f'make has no {wanted - targets}'
    elif program.startswith('tools/') or program.startswith('requirements/'):
        assert (ROOT / program).is_file(), f'{program} does not exist'
    elif program == 'source':
        # `make setup` is tested to print the same line.
        assert arguments in ([f'{name}/bin/activate'] for name in ('.venv', '.venv-openmmlab')), arguments
    elif program == 'mmkerv':
        parse(importlib.import_module('mmkerv.cli.main'), arguments, monkeypatch)
    elif program == 'python' and arguments[0] == '-m':
        name = arguments[1]
        assert find_spec(name) is not None, f'no module {name}'
        if name.startswith('mmkerv.'):
            parse(importlib.import_module(name), arguments[2:], monkeypatch)
    elif program == 'python':
        script = ROOT / arguments[0]
        assert script.is_file(), f'{arguments[0]} does not exist'
        parse(load(script, monkeypatch), arguments[1:], monkeypatch)
    else:
        assert program in OTHERS, f'{program!r} is neither a program of this project nor a known one'
    for word in arguments:
        path = word.rpartition('=')[2]
        assert not re.match(r'configs/[\w/]+\.py$', path) or (ROOT / path).is_file(), f'{path} does not exist'


@pytest.mark.parametrize('block', SHELL, ids=str)
def test_shell(block: Block, monkeypatch):
    pytest.importorskip('mmengine')
    for command in commands(block.code):
        try:
            check(command, monkeypatch)
        except SystemExit as error:
            raise AssertionError(f'{block}: the parser refuses: {" ".join(command)}') from error


@pytest.mark.parametrize(
    ('command', 'error'),
    [
        ('make cofee', AssertionError),
        ('python tools/trian.py a.py', AssertionError),
        ('python tools/train.py a.py --lr 1', SystemExit),
        ('python tools/train.py configs/absent.py', AssertionError),
        ('python -m mmkerv.envy', AssertionError),
        ('source venv/bin/activate', AssertionError),
        ('python -m mmkerv.cli.train a.py --lr 1', SystemExit),
        ('tools/dist_trian.sh a 2', AssertionError),
        ('rm -rf x', AssertionError),
    ],
)
def test_wrong_commands_are_found(command, error, monkeypatch):
    with pytest.raises(error):
        check(commands(command)[0], monkeypatch)


def variants(path: str) -> list[str]:
    """Expand the braces of a path as the shell does."""
    parts = [p.split(',') if i % 2 else [p] for i, p in enumerate(re.split(r'\{([^}]*)\}', path))]
    return [''.join(choice) for choice in product(*parts)]


def absent(text: str) -> list[str]:
    """List the paths of the repository that running text names and that do not exist."""
    prose = re.sub(r'^```.*?^```$', '', text, flags=re.MULTILINE | re.DOTALL)
    words = [word for code in re.findall(r'`([^`\n]+)`', prose) for word in code.split()]
    named = [
        path for word in words if PATH.fullmatch(word) and 'NAME' not in word for path in variants(word.rstrip('.,/'))
    ]
    return [path for path in named if not list(ROOT.glob(path))]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page):
    assert absent(page.read_text()) == []


def test_absent_files_are_found():
    assert absent('see `configs/mnist/lenet5{,_kerv_x}.py` and `tools/train.py`') == ['configs/mnist/lenet5_kerv_x.py']


def test_every_fence_is_read():
    """Every fence with a language is read as a block."""
    for page in PAGES:
        text = page.read_text()
        fences = re.findall(r'^```\w+$', text, re.MULTILINE)
        assert len(fences) == len(blocks_of(text, page.name)), page
    assert len(PYTHON) >= 20 and len(SHELL) >= 10


@pytest.mark.parametrize('page', ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'])
def test_links_of_pages_at_the_root_exist(page):
    for target in re.findall(r'\]\((?!https?:)([^)#]+)', (ROOT / page).read_text()):
        assert (ROOT / target).exists(), target


def test_parsers_raise_system_exit():
    """The tests above rely on parsers that raise SystemExit."""
    with pytest.raises(SystemExit):
        argparse.ArgumentParser().parse_args(['--absent'])
