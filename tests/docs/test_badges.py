"""The badges of README state facts: each file is what docs/draw_badges.py draws from them now."""

import importlib.util
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location('draw_badges', ROOT / 'docs' / 'draw_badges.py')
draw_badges = importlib.util.module_from_spec(spec)
spec.loader.exec_module(draw_badges)


@pytest.mark.parametrize('name', draw_badges.facts())
def test_badge_is_up_to_date_and_shown(name):
    drawn = (ROOT / 'docs' / 'images' / f'badge_{name}.svg').read_text()
    assert drawn == draw_badges.badge(*draw_badges.facts()[name]), 'run `python docs/draw_badges.py`'
    assert [text.text for text in ElementTree.fromstring(drawn).iter('{http://www.w3.org/2000/svg}text')] == list(
        draw_badges.facts()[name]
    )
    assert f'](docs/images/badge_{name}.svg)' in (ROOT / 'README.md').read_text()
