"""Tables of the study's records."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ablation.claims import Runs, claims, mean
from ablation.settings import BACKBONES, SETTINGS, SUPER_INITS
from ablation.training import read_records, write_records

HEAD = """# Results

Written by `python benchmarks/coc_ablation.py report`. Accuracies are top-1 of the validation images in %, as means and
ranges over the seeds; "train" is that of the augmented training images during the last epoch. The text of the paper
gives no values for Figure 7.
"""
NOISE = """A claim is judged by the accuracy after the last epoch; "undecided" is a difference within two standard
errors.
"""


def write_report(out: Path, archive: Path, docs: Path) -> None:
    """Write results.md, plots and records.json to ``docs``, from the records of ``out`` and ``archive``, if any."""
    records = read_records(archive, out)
    parts = [HEAD, machines(records.values())]
    docs.mkdir(parents=True, exist_ok=True)
    for number, (title, runs) in enumerate(sections(records.values()), 1):
        parts += [f'## {title}\n']
        if runs:
            from ablation.plots import plot_settings

            picture = f'settings_{number}.png'
            plot_settings(runs, title, docs / picture)
            parts += [f'![validation accuracy of each setting, as in Figure 7]({picture})\n']
        for backbone in BACKBONES:
            parts += [f'### {backbone}\n', table(runs.get(backbone, {}))]
        parts += ['### Claims of the paper\n', NOISE, claims(runs)]
    (docs / 'results.md').write_text('\n'.join(part for part in parts if part))
    if records:
        write_records(docs / 'records.json', records)


def sections(records: Iterable[dict[str, Any]]) -> list[tuple[str, dict[str, Runs]]]:
    """Group comparable records by data, size, epochs and initialisation; within a group by backbone and setting.

    Runs that do not depend on the initialisation of super layers are in every group.
    """
    records = sorted(records, key=lambda record: record['seed'])
    titles = sorted({training_data(record) for record in records})
    groups = []
    for title in titles:
        comparable = [record for record in records if training_data(record) == title]
        starts = {record['super_init'] for record in comparable if not shared(record)}
        for start in [name for name in SUPER_INITS if name in starts] or [None]:
            runs: dict[str, Runs] = {}
            for record in comparable:
                if shared(record) or record['super_init'] == start:
                    runs.setdefault(record['backbone'], {}).setdefault(record['setting'], []).append(record)
            groups.append((title + (f'; super layers start: {start}' if start else ''), runs))
    return groups or [('No runs yet', {})]


def shared(record: dict[str, Any]) -> bool:
    """Return whether a run does not depend on the initialisation of super layers."""
    setting = SETTINGS[record['setting']]
    return setting.stnd or not setting.coc


def training_data(record: dict[str, Any]) -> str:
    """Describe the data of a run and the length of its training."""
    data, size = record['data'], record['size']
    return (
        f'{data["name"]}: {data["classes"]} classes, {data["train"]} images ({data["val"]} of validation), '
        f'{size} x {size} pixels, {record["epochs"]} epochs'
    )


def table(runs: Runs) -> str:
    """Return a table with a row for each setting, run or not."""
    lines = ['| setting | differs from 221 | seeds | last | best | train | s an iteration |', '|---' * 7 + '|']
    for name, setting in SETTINGS.items():
        group = runs.get(name, [])
        if not group:
            lines.append(f'| {name} | {setting} | 0 | not run | | | |')
            continue
        last = spread(group, 'last') + ''.join(f'; seed {r["seed"]} diverged' for r in group if r['diverged'])
        lines.append(
            f'| {name} | {setting} | {len(group)} | {last} | {spread(group, "best")} | {spread(group, "train_top1")} | '
            f'{mean(group, "seconds_per_iteration"):.2f} |'
        )
    return '\n'.join(lines) + '\n'


def spread(group: list[dict[str, Any]], key: str) -> str:
    """Format the mean, with the range of several values."""
    values = [record[key] for record in group]
    text = f'{mean(group, key):.1f}'
    return text + (f' ({min(values):.1f} to {max(values):.1f})' if len(values) > 1 else '')


def machines(records: Iterable[dict[str, Any]]) -> str:
    """List the machines of the runs, one line each."""
    lines = set()
    for record in records:
        versions = ', '.join(f'{name} {version}' for name, version in record['versions'].items())
        threads = f', {record["threads"]} thread(s) a run' if record['device'] == 'cpu' else ''
        lines.add(f'* {record["date"]}, {record["hardware"]}{threads}, {versions}, commit {record["commit"]}\n')
    return ''.join(sorted(lines))
