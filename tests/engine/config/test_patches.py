"""Every run-time change to a library is in the table of patches.py and is undone; nothing else changes a library."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from mmengine.model import PretrainedInit

import mmkerv
from mmkerv.engine import apply_patches, load_config, patched, undo_patches
from mmkerv.engine.config.patches import PATCHES, _get, _locate
from mmkerv.engine.config.read import read_config
from mmkerv.errors import ConfigError
from tests.engine.tiny_runner import tiny_runner

ROOT = Path(mmkerv.__file__).resolve().parent.parent
INSTALLED = [patch for patch in PATCHES if patch.scope is None or find_spec(patch.scope)]
SCOPES = sorted({patch.scope for patch in INSTALLED if patch.scope})


def values(patches=INSTALLED):
    return {patch.place: _get(*_locate(patch.place)) for patch in patches}


def same(before, after):
    return all(before[place][0] is after[place][0] and before[place][1] == after[place][1] for place in before)


@pytest.mark.parametrize('patch', INSTALLED, ids=[patch.place for patch in INSTALLED])
def test_each_row_changes_its_place_and_is_undone(patch):
    assert patch.why and patch.needed
    before = values([patch])
    with patched(patch.scope, only=[patch.place]):
        assert values([patch])[patch.place][0] is not before[patch.place][0]
    assert same(before, values([patch]))
    apply_patches(patch.scope)
    assert not same(before, values([patch]))
    undo_patches()
    assert same(before, values([patch]))


def test_blocks_may_be_nested_and_repeated():
    plain = values()
    with patched():
        once = values()
        with patched(trust=True):
            apply_patches(SCOPES[0] if SCOPES else None)
            apply_patches()
            assert not same(once, values())
        assert same(once, values())
    assert same(plain, values())


def test_an_error_in_the_block_undoes_it_too():
    plain = values()
    with pytest.raises(ZeroDivisionError), patched():
        1 / 0  # noqa: B018
    assert same(plain, values())


def test_nothing_is_wrapped_twice():
    apply_patches()
    assert PretrainedInit.__call__.__wrapped__ is undone('mmengine.model:PretrainedInit.__call__')


def undone(place):
    undo_patches()
    return _get(*_locate(place))[0]


def test_reading_and_building_change_nothing(tmp_path):
    before = values()
    for name, text in (('a.yaml', 'a: [1, 2]'), ('b.py', "_base_ = './a.yaml'"), ('c.json', '{"a": 1}')):
        (tmp_path / name).write_text(text)
        assert read_config(str(tmp_path / name)).a
        assert same(before, values())
        assert load_config(str(tmp_path / name), {'a': 3}).a == 3
        assert same(before, values())
    for name, text in (('d.yaml', 'a: [1'), ('e.py', '1 / 0'), ('f.yaml', '!!python/name:os.system')):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError):
            load_config(str(tmp_path / name))
        assert same(before, values())
    tiny_runner(tmp_path)
    assert same(before, values())


# Run in a new process, with the places of the table as its argument; it must not import mmkerv before it looks.
IMPORT = """
import re, sys
from importlib import import_module
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

def values():
    found = {}
    for place in sys.argv[1:]:
        module, path = place.split(':')
        *outer, key = re.split(r'[.[]', path.removesuffix(']'))
        owner = import_module(module)
        for name in outer:
            owner = getattr(owner, name)
        found[place] = owner[key] if isinstance(owner, dict) else getattr(owner, key)
    return found

packages, method, before = dict(MODULE2PACKAGE), Config._get_cfg_path, values()
import mmkerv, mmkerv.engine
assert all(before[place] is value for place, value in values().items())
changed = {name for name in MODULE2PACKAGE if packages.get(name) != MODULE2PACKAGE[name]}
assert 'mmkerv' in changed and changed <= {'mmkerv', 'mmseg'}, changed
assert Config._get_cfg_path is not method
assert all(word in mmkerv.__doc__ for word in ('MODULE2PACKAGE', 'Config._get_cfg_path', 'mmseg', 'registered'))
"""


def test_importing_mmkerv_changes_what_its_docstring_lists():
    places = [patch.place for patch in PATCHES if patch.scope is None]
    done = subprocess.run(
        [sys.executable, '-c', IMPORT, *places], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


# The changes outside the table.
ALLOWED = {
    # In the docstring of mmkerv.
    'mmkerv/registry.py': {
        "MODULE2PACKAGE['mmkerv'] = 'mmkerv'",
        "MODULE2PACKAGE['mmseg'] = 'mmseg'",
        'Config._get_cfg_path = staticmethod(get_cfg_path)',
    },
    # Old launchers of torch pass the rank as a flag, and mmengine reads the variable. The filter ends with the command.
    'mmkerv/cli/common.py': {
        "os.environ.setdefault('LOCAL_RANK', str(args.local_rank))",
        "warnings.filterwarnings('ignore', 'faster_coco_eval is not installed')",
    },
    # In the docstring of mmkerv, until mmengine is imported.
    'mmkerv/import_hook.py': {'sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]'},
    # Inside a block that opens an image.
    'mmkerv/image_files.py': {
        'Image.MAX_IMAGE_PIXELS = max(before, MOST_PIXELS // 2)',
        'Image.MAX_IMAGE_PIXELS = before',
    },
    # In the process that answers the shell and ends.
    'mmkerv/cli/completion.py': {
        'argparse.ArgumentParser.parse_args = answer',
        "os.environ['_ARGCOMPLETE'] = str(start + words)",
    },
    # While a subcommand runs: parsers name themselves by it.
    'mmkerv/cli/main.py': {'sys.argv = [program, *words]', 'sys.argv = before'},
}
OURS = ('mmkerv', 'tests', 'tools', 'benchmarks')


def foreign_changes(source: str) -> list[str]:
    """Return the assignments to attributes or items of what a file imports from a library, by setattr too."""
    tree = ast.parse(source)
    foreign = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            foreign |= {(a.asname or a.name.split('.')[0]) for a in node.names if a.name.split('.')[0] not in OURS}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split('.')[0] not in OURS:
            foreign |= {a.asname or a.name for a in node.names}

    def root(node):
        while isinstance(node, (ast.Attribute, ast.Subscript)):
            node = node.value
        return node.id if isinstance(node, ast.Name) else None

    changes = []
    for node in ast.walk(tree):
        targets = []
        if isinstance(node, (ast.Assign, ast.Delete)):
            targets = node.targets
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            targets = [node.target]
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', '')
            if name in ('setattr', 'delattr') and node.args:
                targets = [ast.Attribute(node.args[0], '_')]
            elif name in ('update', 'setdefault', 'pop', 'clear', 'register_scheme') and root(node.func) in foreign:
                targets = [node.func]
            elif name in ('register_backend', 'register_handler', 'set_start_method', 'filterwarnings'):
                targets = [ast.Attribute(ast.Name(sorted(foreign)[0]), '_')]
        changes += [
            ast.unparse(node).splitlines()[0]
            for target in targets
            if isinstance(target, (ast.Attribute, ast.Subscript)) and root(target) in foreign
        ]
    return changes


def test_no_other_file_changes_a_library():
    found = {}
    for file in sorted((ROOT / 'mmkerv').rglob('*.py')):
        name = file.relative_to(ROOT).as_posix()
        if changes := set(foreign_changes(file.read_text())) - ALLOWED.get(name, set()):
            found[name] = changes
    assert not found, 'add a row to mmkerv/engine/config/patches.py'


@pytest.mark.parametrize(
    'line',
    [
        'Config.dump = print',
        'mmengine.config.Config.dump = print',
        "setattr(Config, 'dump', print)",
        "file_handlers['pkl'] = None",
        'file_handlers.update(pkl=None)',
        'del Config.dump',
        "register_backend('local', None, force=True)",
    ],
)
def test_a_change_outside_the_table_is_noticed(line):
    imports = 'import mmengine\nfrom mmengine.config import Config\nfrom mmengine.fileio import file_handlers\n'
    assert foreign_changes(f'{imports}\ndef later():\n    {line}\n')
    assert not foreign_changes(f'{imports}\nconfig = Config()\nconfig.dump = print\n')
