"""Sphinx builds the documentation with this file: ``make docs``. It needs no network."""

import ast
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from mmkerv.version import __version__ as release  # noqa: E402

project = 'mmkerv'
author = 'The mmkerv authors'
copyright = author
version = release
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx_copybutton']
exclude_patterns = ['_build']
# Docstrings write code between single backticks, too.
default_role = 'code'

html_theme = 'furo'
html_title = f'mmkerv {release}'
html_show_sphinx = False
# Browsers show it without a script from the network.
html_math_renderer = 'mathml'
copybutton_prompt_text = r'\$ |>>> |\.\.\. '
copybutton_prompt_is_regexp = True

# What GitHub understands as well: it shows the same files.
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'
napoleon_numpy_docstring = False

nitpicky = True
# Their inventories would have to be fetched.
nitpick_ignore_regex = [
    (r'py:.*', r'(torch|nn|mmengine|mmcv|mmdet|mmpretrain|mmseg|numpy|np|F|matplotlib|collections)(\..*)?')
]

_LITERAL = re.compile(r'(``.*?``|:\w+:`.*?`|`[^`]*`)')


def defined_names() -> set[str]:
    """Collect the names of all modules, functions and classes of mmkerv, including those without an entry here."""
    files = list((ROOT / 'mmkerv').rglob('*.py'))
    parsed = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    names = {node.name for node in parsed if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return names | {file.parent.name if file.name == '__init__.py' else file.stem for file in files}


def escape(app, what, name, obj, options, lines) -> None:
    """Keep ``|s|`` and ``**kwargs`` in running text from being read as markup; examples stay as they are."""
    example = False
    for i, line in enumerate(lines):
        if line and not line.startswith(' '):
            example = line.startswith(('Example', '.. rubric:: Example', '>>>')) or (example and '>>>' in line)
        if not example and '>>>' not in line and not line.lstrip().startswith('..'):
            parts = _LITERAL.split(line)
            lines[i] = ''.join(p if j % 2 else re.sub(r'(?<!\\)(\||\*(?!\s))', r'\\\1', p) for j, p in enumerate(parts))


def show_as_code(app, env, node, content):
    """Show a name of mmkerv that has no entry here as code; a name that does not exist is a warning."""
    if node.get('refdomain') == 'py' and node['reftarget'].rpartition('.')[2] in NAMES:
        return content
    return None


def inline_equation(translator, node) -> None:
    """Write an equation of running text."""
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def equation(translator, node) -> None:
    """Write an equation that stands alone."""
    translator.body.append(f'<div>{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


NAMES = defined_names()


def setup(app) -> None:
    """Connect these functions."""
    # Before napoleon, which makes fields of the arguments.
    app.connect('autodoc-process-docstring', escape, priority=400)
    app.connect('missing-reference', show_as_code)
    app.add_html_math_renderer('mathml', (inline_equation, None), (equation, None))
