"""Training by tools/train.py on disks that are full or cannot be written; prints what came of it, as JSON."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from engine.interrupted_runs import bits, differing
from engine.killed_runs import prepare, train
from engine.registered_parts import CONFIG
from mmengine.config import Config

from mmkerv.engine.latest_checkpoint import latest_checkpoint

# Two checkpoints and a best one need more.
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
        'half': sorted(file.name for file in folder.glob('.*')) if folder.is_dir() else [],
        'latest': latest_checkpoint(Config({'work_dir': str(folder)})) if folder.is_dir() else None,
    }


def mount(folder: Path, options: str) -> bool:
    """Mount a file system in memory, or mount it anew with other options; whether this process may."""
    folder.mkdir(exist_ok=True)
    return not subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)], capture_output=True, check=False
    ).returncode


def main() -> None:
    """Run everything below the folder that is given."""
    prepare()
    base = Path(sys.argv[1])
    config = base / 'config.py'
    config.write_text(CONFIG.format(by_epoch=True, workers=0))
    found = {'whole': run(config, base / 'whole'), 'limited': run(config, base / 'limited', limit=20_000)}
    (base / 'file').touch()
    found['a file in its place'] = run(config, base / 'file')
    disk = base / 'disk'
    if mount(disk, SMALL):
        try:
            found['full'] = run(config, disk)
            mount(disk, f'remount,{LARGE}')
            mount(disk, 'remount,ro')
            found['read-only'] = run(config, disk)
            mount(disk, f'remount,rw,{LARGE}')
            found['room again'] = run(config, disk)
            found['room again']['differing'] = differing(bits(disk), bits(base / 'whole'))
        finally:
            subprocess.run(['umount', str(disk)], check=True)
    print(json.dumps(found))


if __name__ == '__main__':
    main()
