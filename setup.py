"""Build commands that give the package its ``.mim`` folder; all but the licence is declared in pyproject.toml.

OpenMMLab configs (``_base_ = 'mmkerv::...'``) and the ``mim`` command look for ``tools/``, ``configs/`` and
``model-index.yml`` in ``mmkerv/.mim``. An editable install links them, so that edits take effect at once; wheels and
source distributions hold copies. The commands are subclassed instead of inspecting ``sys.argv``, which differs between
pip, uv and build.
"""

import atexit
import shutil
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
PAYLOAD = ('tools', 'configs', 'model-index.yml')


def remove(path: Path) -> None:
    """Remove a link, a file or a folder, if there is one."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def copy_payload(mim: Path) -> None:
    """Replace ``mim`` by a folder with copies of the payload, permissions included."""
    remove(mim)
    mim.mkdir(parents=True)
    for name in PAYLOAD:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, mim / name, ignore=shutil.ignore_patterns('__pycache__', '*.py[co]', '.*'))
        else:
            shutil.copy2(source, mim / name)


def link_payload(mim: Path) -> None:
    """Fill ``mim`` with relative links to the payload, so that the checkout can be moved."""
    mim.mkdir(exist_ok=True)
    for name in PAYLOAD:
        target = Path('..', '..', name)
        if (mim / name).is_symlink() and (mim / name).readlink() == target:
            continue
        remove(mim / name)
        try:
            (mim / name).symlink_to(target, target_is_directory=(ROOT / name).is_dir())
        except OSError as error:
            raise OSError(
                f'cannot link {mim / name} to {ROOT / name}: {error}. An editable install needs symbolic links; '
                'on Windows switch Developer Mode on, or install without -e'
            ) from error


class Build(build):
    """Build in a temporary folder: a ``build/`` left in the checkout would put deleted files into the next wheel."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.build_base = tempfile.mkdtemp(prefix='mmkerv-build-')
        atexit.register(shutil.rmtree, self.build_base, ignore_errors=True)


class BuildPy(build_py):
    """Add ``.mim`` to the built package, never to the checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            copy_payload(Path(self.build_lib, 'mmkerv', '.mim'))


class EditableWheel(editable_wheel):
    """Link ``.mim`` in the checkout."""

    def run(self) -> None:
        link_payload(ROOT / 'mmkerv' / '.mim')
        super().run()


class Sdist(sdist):
    """Add ``.mim`` to the archive."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        copy_payload(Path(base_dir, 'mmkerv', '.mim'))


# Makes CoC faster on a CPU, and is left out where it cannot be compiled. It is not linked with an OpenMP of its own: at
# run time it shares that of torch.
ASSOCIATION = Extension(
    'mmkerv.ops.coc._association',
    ['mmkerv/ops/coc/_association.c'],
    extra_compile_args=['-O3', '-fopenmp'],
    py_limited_api=True,
    optional=True,
)

setup(
    license='Apache-2.0',
    ext_modules=[ASSOCIATION],
    options={'bdist_wheel': {'py_limited_api': 'cp310'}},
    cmdclass={'build': Build, 'build_py': BuildPy, 'editable_wheel': EditableWheel, 'sdist': Sdist},
)
