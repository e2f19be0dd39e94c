"""The imports between the modules of mmkerv run one way, from the tools down to the errors, and in no cycle."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
# From the bottom to the top: a part imports those before it and itself.
ORDER = (
    *('version', 'errors', 'import_hook', 'work_folder', 'config_files', 'image_files', 'device_code', 'gpus'),
    *('distributions', 'install_advice', 'env'),
    *('utils', 'operator_table', 'registry'),
    *('ops.core', 'ops', 'models', 'engine', 'deploy', 'analysis', 'visualization', 'datasets', 'cli', '__main__'),
)


def module_name(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def imports(source: str, module: str, modules: set[str]) -> Iterator[str]:
    """Yield the modules of mmkerv that a module imports, at its top or in a function, but for its annotations."""
    hidden = set()
    for node in ast.walk(tree := ast.parse(source)):
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test):
            hidden |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.partition('.')[0] in ('mmkerv', 'tools', 'tests'))
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{module}: relative import; write from mmkerv...'
            if node.module.partition('.')[0] in ('mmkerv', 'tools', 'tests'):
                names = [f'{node.module}.{a.name}' for a in node.names]
                yield from (name if name in modules else node.module for name in names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith('import_module') and node.args:
            name = node.args[0]
            # A module that is imported lazily by its name; a name that is computed cannot be followed.
            if isinstance(name, ast.Constant) and str(name.value).startswith('mmkerv.'):
                yield name.value


def graph(root: Path = ROOT) -> dict[str, set[str]]:
    files = {module_name(file, root): file for file in (root / 'mmkerv').rglob('*.py')}
    return {name: set(imports(file.read_text(), name, set(files))) - {name} for name, file in files.items()}


def rank(module: str) -> int:
    """Return the place of a module in the order; of `mmkerv` itself, which registers, that of the registry."""
    path = module.removeprefix('mmkerv').removeprefix('.') or 'registry'
    fitting = [part for part in ORDER if path == part or path.startswith(f'{part}.')]
    assert fitting, f'{module} has no place in ORDER'
    return ORDER.index(max(fitting, key=len))


# Imported by its name when the first operator is built: nothing of torch is needed to register.
LAZY = {('mmkerv', 'mmkerv.models.placement'), ('mmkerv.registry', 'mmkerv.ops')}


def wrong_arrows(arrows: dict[str, set[str]]) -> list[str]:
    return [
        f'{module} -> {target}'
        for module, targets in sorted(arrows.items())
        for target in sorted(targets)
        if (module, target) not in LAZY and (not target.startswith('mmkerv') or rank(target) > rank(module))
    ]


def cycle(arrows: dict[str, set[str]]) -> list[str] | None:
    """Return the modules of one cycle, if there is any."""
    state: dict[str, str] = {}

    def visit(module: str, path: list[str]) -> list[str] | None:
        if state.get(module) == 'done':
            return None
        if state.get(module) == 'open':
            return path[path.index(module) :]
        state[module] = 'open'
        for target in sorted(arrows.get(module, ())):
            if (module, target) not in LAZY and (found := visit(target, [*path, module])):
                return found
        state[module] = 'done'
        return None

    return next((found for module in sorted(arrows) if (found := visit(module, []))), None)


def test_no_import_goes_up():
    assert not wrong_arrows(graph())


def test_no_cycle_of_modules():
    assert cycle(graph()) is None


def test_no_cycle_of_folders_in_a_part():
    for part in ('ops', 'engine', 'models', 'cli'):
        folders: dict[str, set[str]] = {}
        for module, targets in graph().items():
            names = [name.split('.') for name in (module, *targets) if name.startswith(f'mmkerv.{part}.')]
            if len(module.split('.')) > 3 and module.startswith(f'mmkerv.{part}.'):
                inner = {'.'.join(name[:3]) for name in names if len(name) > 3}
                folders.setdefault('.'.join(module.split('.')[:3]), set()).update(inner)
        assert cycle({folder: targets - {folder} for folder, targets in folders.items()}) is None


@pytest.mark.parametrize(
    ('file', 'line', 'arrow'),
    [
        ('ops/core/base.py', 'from mmkerv.engine import hooks', 'mmkerv.ops.core.base -> mmkerv.engine.hooks'),
        ('ops/core/base.py', 'def f():\n    import mmkerv.ops.coc', 'mmkerv.ops.core.base -> mmkerv.ops.coc'),
        ('errors.py', 'from mmkerv import utils', 'mmkerv.errors -> mmkerv.utils'),
        ('engine/hooks/__init__.py', 'import tools.train', 'mmkerv.engine.hooks -> tools.train'),
        ('engine/hooks/__init__.py', "x = import_module('mmkerv.deploy')", 'mmkerv.engine.hooks -> mmkerv.deploy'),
        ('cli/train.py', 'from mmkerv.engine import hooks', None),
        ('engine/hooks/__init__.py', 'if TYPE_CHECKING:\n    from mmkerv import cli', None),
    ],
)
def test_a_wrong_import_is_noticed(tmp_path, file, line, arrow):
    for name in ('ops/core/base.py', 'ops/coc/__init__.py', 'engine/hooks/__init__.py', 'errors.py', 'utils.py', file):
        path = tmp_path / 'mmkerv' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ('deploy', 'cli', 'engine'):
        (tmp_path / 'mmkerv' / name).mkdir(exist_ok=True)
        (tmp_path / 'mmkerv' / name / '__init__.py').touch()
    (tmp_path / 'mmkerv' / file).write_text(line + '\n')
    assert wrong_arrows(graph(tmp_path)) == ([arrow] if arrow else [])


def test_a_cycle_is_noticed():
    assert cycle({'a': {'b'}, 'b': {'c'}, 'c': {'b'}}) == ['b', 'c']
    assert cycle({'a': {'b', 'c'}, 'b': {'c'}, 'c': set()}) is None


BLOCK = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *args):
        return None if name.partition('.')[0] in {blocked!r} else self.finder.find_spec(name, *args)

sys.meta_path[:] = map(Without, sys.meta_path)
for name in {modules!r}:
    __import__(name)
"""
UPSTREAM = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')


def imported(modules: list[str], blocked: tuple[str, ...]) -> subprocess.CompletedProcess:
    code = BLOCK.format(blocked=set(blocked), modules=modules)
    return subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def test_operators_need_torch_alone():
    modules = [name for name in graph() if name == 'mmkerv.ops' or name.startswith('mmkerv.ops.')]
    # Imported on first use: written for Triton, which only a GPU needs, and for the compiler of torch 2.6.
    lazy = ('triton_kernels', *(('compiled_cpu',) if torch.__version__ < (2, 6) else ()))
    modules = [name for name in modules if not name.endswith(lazy)]
    done = imported(['mmkerv.errors', *modules], UPSTREAM)
    assert done.returncode == 0, done.stderr
    assert imported(['mmkerv.engine'], UPSTREAM).returncode != 0


def test_errors_need_nothing():
    assert not graph()['mmkerv.errors']
    done = imported(['mmkerv.errors'], (*UPSTREAM, 'torch', 'numpy'))
    assert done.returncode == 0, done.stderr


def test_importing_mmkerv_imports_no_library_of_models():
    done = imported(['mmkerv'], ('torchvision', *UPSTREAM[1:]))
    assert done.returncode == 0, done.stderr


def test_parts_are_attributes_of_mmkerv():
    names = ('analysis', 'datasets', 'deploy', 'engine', 'errors', 'models', 'ops', 'visualization')
    code = f'import mmkerv; print(*(getattr(mmkerv, name).__name__ for name in {names}))'
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split()[-len(names) :] == [f'mmkerv.{name}' for name in names], done.stderr
