"""The code blocks of README.md and docs/, with the comment before each."""

import re
import shlex
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / 'README.md',
    ROOT / 'CONTRIBUTING.md',
    *sorted(p for p in (ROOT / 'docs').rglob('*.md') if '_build' not in p.parts),
]
# A comment in the line before a block tells the tests how to treat it:
#   <!-- not run: REASON -->       only compile it
#   <!-- goes into: CONFIG -->     change that config by it and build the model
#   <!-- message: NAME -->         compare it with the message that provoke.py provokes under that name
#   <!-- not provoked: REASON -->  it quotes a message that cannot be provoked here
_BLOCK = re.compile(
    r'(?:^<!-- (?P<key>not run|goes into|message|not provoked): (?P<value>[^\n]+?) -->\n+)?'
    r'^```(?P<language>\w+)\n(?P<code>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced block: its page and line, its language, its text, and the comment before it."""

    page: str
    line: int
    language: str
    code: str
    key: str | None
    value: str | None

    def __str__(self) -> str:
        return f'{self.page}:{self.line}'


def blocks_of(text: str, page: str) -> list[Block]:
    """Return every block of a page.

    Example:
        >>> [block.code for block in blocks_of('```python\\na = 1\\n```', 'a.md')]
        ['a = 1\\n']
    """
    return [
        Block(page, text[: m.start('code')].count('\n') + 1, m['language'], m['code'], m['key'], m['value'])
        for m in _BLOCK.finditer(text)
    ]


def blocks(*languages: str) -> list[Block]:
    """Return every block in these languages."""
    every = [block for page in PAGES for block in blocks_of(page.read_text(), str(page.relative_to(ROOT)))]
    return [block for block in every if block.language in languages]


def commands(code: str) -> list[list[str]]:
    """Split the commands of a shell block into words.

    Example:
        >>> commands('A=1 B=2 make b  # c\\n\\npython d \\\\\\n    --e')
        [['make', 'b'], ['python', 'd', '--e']]
    """
    lines = code.replace('\\\n', ' ').splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    without_variables = [list(dropwhile(re.compile(r'[A-Z_]+=').match, line)) for line in words]
    return [line for line in without_variables if line]
