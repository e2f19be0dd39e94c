"""docs/troubleshooting.md quotes messages word for word: each is compared with the message of the code."""

import re

import pytest

from tests.docs.blocks import ROOT, blocks
from tests.docs.provoke import PROVOKED

pytest.importorskip('mmdet')

QUOTED = [block for block in blocks('text') if block.page == 'docs/troubleshooting.md']


def matches(quoted: str, message: str) -> bool:
    """Compare a message with its quotation, in which `...` stands for anything; line breaks are ignored."""
    # Without the colours of terminals.
    words = ' '.join(re.sub(r'\x1b\[\d+m', '', message).split())
    pattern = '.*'.join(re.escape(part) for part in ' '.join(quoted.split()).split('...'))
    return re.fullmatch(pattern, words) is not None


@pytest.mark.parametrize('block', [b for b in QUOTED if b.key != 'not provoked'], ids=lambda block: block.value)
def test_quoted_message_is_the_message_of_the_code(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert block.key == 'message', f'{block} names neither `message: NAME` nor `not provoked: REASON`'
    message = PROVOKED[block.value](tmp_path)
    assert matches(block.code, message), f'{block} quotes\n{block.code}\nbut the message is\n{message}'


def test_every_provoked_message_is_quoted_once():
    assert sorted(b.value for b in QUOTED if b.key == 'message') == sorted(PROVOKED)


def test_only_messages_of_other_environments_are_not_provoked():
    reasons = [b.value for b in QUOTED if b.key == 'not provoked']
    assert len(reasons) <= 6 and all(reason.startswith('needs ') for reason in reasons)


def test_other_messages_do_not_match():
    assert matches('a ... c\n', 'a b\n c') and not matches('a ... c', 'a b d') and not matches('a c', 'a b c')


def test_every_message_has_a_fix():
    """Running text follows every quotation, or the last of several."""
    text = (ROOT / 'docs' / 'troubleshooting.md').read_text()
    assert not re.search(r'```\n\n(?:#|\Z)', text.replace('```text', '~~~'))
