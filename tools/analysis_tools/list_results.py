"""Table of published results and ours from the metafiles: ``list_results.py [--write docs/results.md]``."""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from mmkerv.cli import common

ROOT = Path(__file__).resolve().parents[2]
BEGIN = '<!-- begin: tools/analysis_tools/list_results.py -->'
COLUMNS = ('config', 'metric', 'published', 'ours', 'how to run')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Print, as markdown, published results, ours and the commands that give them'
    )
    parser.add_argument('--write', metavar='FILE', help=f'write it into FILE, after {BEGIN}')
    return parser.parse_args(argv)


def metafiles() -> Iterator[dict]:
    """Yield the metafiles that model-index.yml names; every value is a string, so that figures stay as published."""
    import yaml

    index = yaml.load((ROOT / 'model-index.yml').read_text(), yaml.BaseLoader)  # noqa: S506, it makes strings, lists and dicts only
    for name in index['Import']:
        yield yaml.load((ROOT / name).read_text(), yaml.BaseLoader)  # noqa: S506, it makes strings, lists and dicts only


def tables() -> str:
    """Return a section with a table for each collection."""
    parts = []
    for content in metafiles():
        (collection,) = content['Collections']
        paper = collection['Paper']
        parts.append(f'## {collection["Name"]}\n\n[{paper["Title"]}]({paper["URL"]})\n')
        parts.append(f'| {" | ".join(COLUMNS)} |\n|{"---|" * len(COLUMNS)}')
        parts += [row for model in content['Models'] for row in rows(model)]
        parts.append('')
    return '\n'.join(parts)


def rows(model: dict) -> Iterator[str]:
    """Yield one row for each published result of a model, with our result on the same data."""
    ours = {r['Dataset']: r for r in model['Results'] if r['Source'].startswith('ours')}
    published = [r for r in model['Results'] if not r['Source'].startswith('ours')]
    for result in published:
        measured = ours.get(result['Dataset'])
        metric, values = ', '.join(result['Metrics']), ' / '.join(result['Metrics'].values())
        source = result['Source'].removeprefix('published, ')
        our_cell = 'not run'
        if measured:
            our_cell = f'{" / ".join(measured["Metrics"].values())} ({measured["Source"].removeprefix("ours, ")})'
        cells = (
            f'[{model["Name"]}](../{model["Config"]})',
            f'{metric}, {result["Dataset"]}',
            f'{values} ({source})',
            our_cell,
            f'`{command(model["Config"])}`',
        )
        yield f'| {" | ".join(cells)} |'


def command(config: str) -> str:
    """Return the commands in the head of a config, else those of the config it inherits from, else the usual one.

    Of ``dist_train.sh`` and ``train.py`` it is the first, with the papers' number of GPUs. A row that starts from a
    network trained by another config has the command of that one before its own.
    """
    usual, file = f'python tools/train.py {config}', ROOT / config
    while file:
        text, name = file.read_text(), str(file.relative_to(ROOT))
        head = '\n'.join(line.removeprefix('#').strip() for line in text.splitlines() if line.startswith('#'))
        lines = re.sub(r' \\\n', ' ', head).splitlines()
        for script in ('tools/dist_train.sh', 'python tools/train.py'):
            if any(line.startswith(f'{script} {name}') for line in lines):
                return '`, then `'.join(line.replace(name, config) for line in lines if line.startswith(script))
        base = re.search(r"^_base_ = '\./(\w+\.py)'", text, re.MULTILINE)
        file = file.parent / base[1] if base else None
    return usual


def main(argv: Sequence[str] | None = None) -> None:
    """Print or write."""
    args = parse_args(argv)
    output = common.between_markers(args.write, BEGIN) if args.write else print
    output(tables())


if __name__ == '__main__':
    common.run(main)
