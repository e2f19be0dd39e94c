"""A training without a network: logs three steps, may fail, and stops on a signal with a checkpoint, as ours do.

``fake_training.py FOLDER SEED BEHAVIOUR``; it imports nothing large.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

folder, seed, behaviour = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with (folder / 'starts').open('a') as file:
    file.write(f'{os.environ.get("CUDA_VISIBLE_DEVICES")}\n')
starts = len((folder / 'starts').read_text().splitlines())
checkpoint, log = folder / 'checkpoint', folder / f'start_{starts}' / 'vis_data' / 'scalars.json'
log.parent.mkdir(parents=True)
stopped = []
signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
first = int(checkpoint.read_text()) if checkpoint.is_file() else 0
with log.open('a') as out:
    for step in range(first + 1, 4):
        print(json.dumps({'loss': 1 / step, 'time': 0.5, 'step': step}), file=out, flush=True)
        print(f'Epoch(train)  [1][{step}/3]', flush=True)
        if behaviour == 'signals' and step == 2 and not first:
            os.kill(os.getppid(), signal.SIGINT)
            end = time.monotonic() + 60
            while not stopped and time.monotonic() < end:
                time.sleep(0.01)
        if stopped:
            checkpoint.write_text(str(step))
            sys.exit(128 + stopped[0])
        if behaviour == 'waits':
            end = time.monotonic() + 60
            while not stopped and time.monotonic() < end:
                time.sleep(0.01)
            sys.exit(128 + stopped[0] if stopped else 'error: nobody stopped it')
        if behaviour == 'fails':
            sys.exit('error: the loss is NaN; lower the learning rate')
        if behaviour == 'raises':
            raise RuntimeError('no memory')
        if behaviour == 'killed':
            os.kill(os.getpid(), signal.SIGKILL)
    metrics = {} if behaviour == 'silent' else {'mIoU': 40.0 + seed}
    print(json.dumps({**metrics, 'time': 0.1, 'step': 3}), file=out)
