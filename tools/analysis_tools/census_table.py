"""Tables of a census of the libraries' models, see ``census.py``."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from census import Share

# Heads of the columns of the summary.
COLUMNS = (
    *('library', 'configs built', 'classes', 'reached by `conv_cfg`: all, some, none'),
    *('by placement: all, some, none', 'convolutions by `conv_cfg`', 'by placement'),
)


def read(folder: Path, libraries: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the finished censuses of a folder by library.

    Raises:
        OSError: if one is missing or not finished.
    """
    found = {}
    for library in libraries:
        file = folder / f'{library}.json'
        found[library] = json.loads(file.read_text())
        if left := [config for config in found[library]['configs'] if config not in found[library]['counts']]:
            raise OSError(f'{file} lacks {len(left)} configs, such as {left[0]}: give the same command again')
    return found


def shares(library: str, counts: dict[str, dict[str, Any]]) -> dict[str, Share]:
    """Return the share of each class of a library in the first config that has it."""
    found: dict[str, Share] = {}
    for counted in counts.values():
        for kind, share in counted.get('classes', {}).items():
            if kind.startswith(f'{library}.'):
                found.setdefault(kind, Share(**share))
    return found


def document(found: dict[str, dict[str, Any]]) -> str:
    """Return the summary, and the classes of which placement reaches more than ``conv_cfg``, in Markdown."""
    classes = {library: shares(library, done['counts']) for library, done in found.items()}
    everything = {kind: share for of in classes.values() for kind, share in of.items()}
    counts = [count for done in found.values() for count in done['counts'].values()]
    computed = Counter(count['forward'].partition(':')[0] for count in counts if 'error' not in count)
    summary = [_row(COLUMNS), _row(['---'] * len(COLUMNS))]
    for library, done in found.items():
        built = sum('error' not in count for count in done['counts'].values())
        summary.append(_summary(library, f'{built} of {len(done["configs"])}', classes[library].values()))
    summary.append(_summary('all', f'{computed.total()} of {len(counts)}', everything.values()))
    kept: Counter = Counter()
    for share in everything.values():
        kept.update(share.kept)
    missed = {kind: share for kind, share in everything.items() if share.by_conv_cfg < share.by_placement}
    table = [_row(['class', 'convolutions', 'by `conv_cfg`', 'by placement', 'kept by placement']), _row(['---'] * 5)]
    table += [
        _row([kind, share.total, share.by_conv_cfg, share.by_placement, _listed(share.kept)])
        for kind, share in sorted(missed.items())
    ]
    dates = ' to '.join(dict.fromkeys(sorted(done['date'] for done in found.values())))
    return '\n\n'.join(
        [
            f'Counted on {dates} with {next(iter(found.values()))["versions"]}.',
            '\n'.join(summary),
            f'Kept by placement: {_listed(dict(kept.most_common()))}.',
            f'{computed["same"]} of the converted models computed an image, or their backbones did where a model needs '
            'more, and called each operator where the plain model calls its convolution; '
            f'{computed["not run"]} were only built, because the plain model computes no image alone.',
            '## What `conv_cfg` does not reach',
            f'Placement reaches more in {len(missed)} of {len(everything)} classes:',
            '\n'.join(table),
        ]
    )


def _row(cells: Iterable[Any]) -> str:
    return f'| {" | ".join(map(str, cells))} |'


def _listed(numbers: dict[str, int]) -> str:
    return ', '.join(f'{text}: {number}' for text, number in numbers.items())


def _summary(library: str, configs: str, shares: Iterable[Share]) -> str:
    shares = list(shares)
    cells = [library, configs, len(shares)]
    for key in ('by_conv_cfg', 'by_placement'):
        every = sum(getattr(share, key) == share.total for share in shares)
        none = sum(not getattr(share, key) for share in shares)
        cells.append(f'{every}, {len(shares) - every - none}, {none}')
    total = sum(share.total for share in shares)
    cells += [f'{sum(getattr(share, key) for share in shares)} of {total}' for key in ('by_conv_cfg', 'by_placement')]
    return _row(cells)
