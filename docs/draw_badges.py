"""Draw the badges of README from the facts they state: ``docs/images/badge_*.svg``.

python docs/draw_badges.py
"""

import re
from pathlib import Path

from mmkerv.distributions import TORCH
from mmkerv.ops.description import list_operators

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'docs' / 'images'
# Width of a letter at 11 px, rounded up: no font is measured.
LETTER, PAD, HEIGHT = 6.6, 8, 20
GREY, BLUE = '#555', '#2a6fb0'


def facts() -> dict[str, tuple[str, str]]:
    """Return name of the file -> label and value.

    Example:
        >>> facts()['licence']
        ('licence', 'Apache-2.0')
    """
    project = (ROOT / 'pyproject.toml').read_text()
    versions = re.findall(r'Python :: (3\.\d+)"', project)
    licence = re.search(r"license='(.+?)'", (ROOT / 'setup.py').read_text())[1]
    torch = sorted((version['torch'] for version in TORCH.values()), key=lambda text: [int(n) for n in text.split('.')])
    return {
        'python': ('python', f'{versions[0]} to {versions[-1]}'),
        'torch': ('tested with torch', ' and '.join('.'.join(text.split('.')[:2]) for text in torch)),
        'operators': ('operators', str(len(list_operators()))),
        'licence': ('licence', licence),
    }


def badge(label: str, value: str) -> str:
    """Return a badge as SVG.

    Example:
        >>> badge('licence', 'MIT').startswith('<svg ')
        True
    """
    left, right = (round(LETTER * len(text) + 2 * PAD) for text in (label, value))
    text = '<text x="{}" y="14" fill="#fff" text-anchor="middle">{}</text>'
    return '\n'.join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="{HEIGHT}" role="img" '
            f'aria-label="{label}: {value}" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">',
            f'<rect width="{left + right}" height="{HEIGHT}" rx="3" fill="{GREY}"/>',
            f'<path fill="{BLUE}" d="M{left} 0h{right - 3}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3h-{right - 3}z"/>',
            text.format(left / 2, label),
            text.format(left + right / 2, value),
            '</svg>\n',
        ]
    )


def main() -> None:
    """Write the files."""
    for name, fact in facts().items():
        (FOLDER / f'badge_{name}.svg').write_text(badge(*fact))


if __name__ == '__main__':
    main()
