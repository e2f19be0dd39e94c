"""Run trainings whose files cannot be written or read, or without a checkpoint yet; print the results as JSON."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch
from mmengine.config import Config

from mmkerv.engine import safe_load
from mmkerv.engine.resume.latest_checkpoint import latest_checkpoint
from tests.engine.registered_parts import CONFIG
from tests.engine.resume.interrupted_runs import bits, differing
from tests.engine.resume.killed_runs import prepare, train

# Sizes of file systems: the small one does not hold two checkpoints and a best one.
SMALL, LARGE = 'size=150k', 'size=20m'


def run(config: Path, folder: Path, limit: int | None = None) -> dict:
    """Train, in files of at most ``limit`` bytes, and return the exit status, the errors and what can be resumed."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = folder.parent / f'{folder.name}.log'
    log.unlink(missing_ok=True)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    child = train(config, folder)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    text = log.read_text()
    return {
        'status': status,
        'errors': [line for line in text.splitlines() if line.startswith('error: ')],
        'traceback': 'Traceback' in text,
        'log': text[-3000:],
        'left': sorted(file.name for file in folder.glob('*.pth')) if folder.is_dir() else [],
        'partial': sorted(file.name for file in folder.glob('.*')) if folder.is_dir() else [],
        'latest': latest_checkpoint(Config({'work_dir': str(folder)})) if folder.is_dir() else None,
    }


def mount(folder: Path, options: str) -> bool:
    """Mount a file system in memory, or remount it with other options; return whether this process may."""
    folder.mkdir(exist_ok=True)
    return not subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)], capture_output=True, check=False
    ).returncode


def changed(config: Path, line: str) -> Path:
    """Write a copy of the config with one more line."""
    other = config.with_name('changed.py')
    other.write_text(f'{config.read_text()}{line}\n')
    return other


def resume_without_checkpoint(config: Path, base: Path) -> dict:
    """Train with ``--resume`` and learning rate 0 from given weights, where the run has no checkpoint yet."""
    last = safe_load((base / 'whole' / 'last_checkpoint').read_text())
    weights = {name: value + 7 if name == 'conv.weight' else value for name, value in last['state_dict'].items()}
    torch.save({'state_dict': weights}, base / 'start.pth')
    text = f"load_from = {str(base / 'start.pth')!r}\noptim_wrapper['optimizer']['lr'] = 0.0"
    result = run(changed(config, text), base / 'started')
    ended = bits(base / 'started')
    return {**result, 'kept': torch.equal(ended['state_dict.conv.weight'], weights['conv.weight'])}


def main() -> None:
    """Run all trainings in the folder from the command line."""
    prepare()
    base = Path(sys.argv[1])
    config = base / 'config.py'
    config.write_text(CONFIG.format(by_epoch=True, workers=0))
    results = {'whole': run(config, base / 'whole'), 'limited': run(config, base / 'limited', limit=20_000)}
    (base / 'file').touch()
    results['a file in its place'] = run(config, base / 'file')
    results['unreadable data'] = run(
        changed(config, "train_dataloader['dataset'] = dict(type='UnreadableImages')"), base / 'r'
    )
    results['start'] = resume_without_checkpoint(config, base)
    disk = base / 'disk'
    if mount(disk, SMALL):
        try:
            results['full'] = run(config, disk)
            mount(disk, f'remount,{LARGE}')
            mount(disk, 'remount,ro')
            results['read-only'] = run(config, disk)
            mount(disk, f'remount,rw,{LARGE}')
            results['space again'] = run(config, disk)
            results['space again']['differing'] = differing(bits(disk), bits(base / 'whole'))
        finally:
            subprocess.run(['umount', str(disk)], check=True)
    print(json.dumps(results))


if __name__ == '__main__':
    main()
