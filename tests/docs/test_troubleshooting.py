"""docs/troubleshooting.md quotes messages word for word: each is held against what the code really says."""

import re

import pytest

from tests.docs.blocks import ROOT, blocks
from tests.docs.provoke import PROVOKED

pytest.importorskip('mmdet')

QUOTED = [block for block in blocks('text') if block.page == 'docs/troubleshooting.md']


def said_as(quoted: str, message: str) -> bool:
    """Whether a message is what is quoted; `...` stands for anything, and line breaks do not count."""
    # Colours of terminals are not part of a message.
    words = ' '.join(re.sub(r'\x1b\[\d+m', '', message).split())
    pattern = '.*'.join(re.escape(part) for part in ' '.join(quoted.split()).split('...'))
    return re.fullmatch(pattern, words) is not None


@pytest.mark.parametrize('block', [b for b in QUOTED if b.key != 'not provoked'], ids=lambda block: block.value)
def test_quoted_message_is_said(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert block.key == 'message', f'{block} names neither `message: NAME` nor `not provoked: REASON`'
    message = PROVOKED[block.value](tmp_path)
    assert said_as(block.code, message), f'{block} quotes\n{block.code}\nthe code says\n{message}'


def test_every_provoked_message_is_quoted_once():
    assert sorted(b.value for b in QUOTED if b.key == 'message') == sorted(PROVOKED)


def test_what_is_not_provoked_is_what_other_environments_say():
    reasons = [b.value for b in QUOTED if b.key == 'not provoked']
    assert len(reasons) <= 6 and all(reason.startswith('needs ') for reason in reasons)


def test_other_words_are_found():
    assert said_as('a ... c\n', 'a b\n c') and not said_as('a ... c', 'a b d') and not said_as('a c', 'a b c')


def test_every_message_has_a_cure():
    """Every quotation, or the last of several, is followed by running text."""
    text = (ROOT / 'docs' / 'troubleshooting.md').read_text()
    assert not re.search(r'```\n\n(?:#|\Z)', text.replace('```text', '~~~'))
