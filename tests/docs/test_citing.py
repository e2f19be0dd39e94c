"""CITATION.cff and docs/citing.md agree with the package: its version, its operators, and the keys of the entries."""

import re
from pathlib import Path

import yaml

import mmkerv

ROOT = Path(__file__).resolve().parents[2]
# Layouts of layers, and decompositions, that are no one's paper.
WITHOUT_PAPER = {'LowRankConv', 'StackedConv', 'DepthwiseSeparableConv', 'SpatiallySeparableConv'}


def test_the_citation_is_of_this_version():
    found = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert found['version'] == mmkerv.__version__ and found['cff-version'] == '1.2.0'
    assert {'message', 'title', 'authors', 'license'} <= set(found)


def test_every_operator_has_its_papers_and_every_entry_an_operator():
    text = (ROOT / 'docs' / 'citing.md').read_text()
    table, _, entries = text.partition('```bibtex')
    keys = re.findall(r'^@\w+\{(\w+),$', entries, re.MULTILINE)
    assert len(set(keys)) == len(keys) and set(keys) == set(re.findall(r'`(\w+\d{4}\w+)`', table))
    named = set(re.findall(r'`(\w*Conv\w*)`', table))
    families = {re.sub(r'(Conv)[13]d$', r'\1', name) for name in mmkerv.list_operators()} - WITHOUT_PAPER
    # FlexConv is CKConv with its options, and LightweightConv has one form.
    assert {re.sub(r'1d$', '', name) for name in named} == families - {'FlexConv'}


def test_entries_are_balanced():
    entries = (ROOT / 'docs' / 'citing.md').read_text().partition('```bibtex\n')[2].partition('```')[0]
    assert entries.count('{') == entries.count('}')
    for entry in entries.strip().split('\n@'):
        assert re.search(r'title = \{.+\},\n', entry) and re.search(r'author = \{.+\},\n', entry)
        assert re.search(r'year = \{20\d\d\}\n\}', entry)
