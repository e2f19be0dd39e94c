"""Generator of damaged and hostile checkpoints, and the check of a converter on each.

A converter, run as a user runs it, must write a complete checkpoint, or raise one readable error and leave existing
files untouched. It must never execute code of a checkpoint.
"""

import contextlib
import importlib.util
import io
import pickle
import random
import re
import resource
import sys
import time
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from mmcv.cnn import build_conv_layer
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkerv.engine import safe_load
from tests import malicious_files

TOOLS = Path(__file__).resolve().parents[3] / 'tools'
OLD = b'an earlier file'
CONFIG = """
default_scope = 'mmengine'
model = dict(type='FuzzNetwork', conv_cfg=dict(type='mmkerv.CoCConv'))
"""


@MODELS.register_module(force=True)
class FuzzNetwork(BaseModel):
    """Smallest network with a backbone, a norm with counters and a head."""

    def __init__(self, conv_cfg: dict | None = None, **_: Any):
        super().__init__()
        conv = build_conv_layer(conv_cfg, 3, 4, 3, padding=1)
        self.backbone = nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(4)))
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Tensor:
        return self.head(self.backbone(inputs).mean((2, 3)))


def authors_weights() -> dict[str, Tensor]:
    """Return the weights of a CKCNN of one block by the names of its authors."""
    net = 'backbone.0.cconv1.Kernel.kernel_net.'
    weights = {f'{net}{i}.weight_g': torch.rand(4, 1, 1) for i in (0, 3)}
    weights |= {f'{net}{i}.weight_v': torch.rand(4, 4, 1) for i in (0, 3)}
    weights |= {f'{net}{i}.bias': torch.rand(4) for i in (0, 3)}
    weights |= {'backbone.0.cconv1.bias': torch.rand(4), 'backbone.0.norm1.layer_norm.weight': torch.rand(4)}
    return weights | {'finallyr.weight': torch.rand(2, 4), 'finallyr.bias': torch.rand(2)}


def runner_checkpoint(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Return a checkpoint as mmengine's runner saves it."""
    history = HistoryBuffer([1.0, 0.5], [1, 1])
    return {
        'meta': {'epoch': 1, 'iter': 2, 'cfg': 'a = 1', 'seed': 0, 'dataset_meta': {'classes': ('a', 'b')}},
        'message_hub': {'log_scalars': {'train/loss': history}, 'runtime_info': {'lr': np.float64(0.1)}},
        'state_dict': OrderedDict(weights),
        'ema_state_dict': {'module.head.bias': torch.rand(2), 'steps': torch.tensor(3)},
        'optimizer': {'state': {0: {'momentum_buffer': torch.rand(2)}}, 'param_groups': [{'lr': 0.1, 'params': [0]}]},
    }


class Converter(NamedTuple):
    """Tool, its arguments with ``{config}``, ``{src}`` and ``{dst}`` for files, and a checkpoint that it accepts."""

    tool: str
    arguments: tuple[str, ...]
    checkpoint: Callable[[], Any]


def _network(conv_cfg: dict | None) -> dict[str, Tensor]:
    import mmkerv  # noqa: F401

    return FuzzNetwork(conv_cfg).state_dict()


def _operators() -> dict[str, Any]:
    return runner_checkpoint(_network({'type': 'mmkerv.CoCConv'}))


CONVERTERS = {
    'fold': Converter('reparameterize_model', ('{config}', '{src}', '{dst}', '--shape', '8', '8'), _operators),
    'plain': Converter(
        'plain_to_mmkerv', ('{src}', '{dst}', '--config', '{config}'), lambda: runner_checkpoint(_network(None))
    ),
    'bare': Converter('plain_to_mmkerv', ('{src}', '{dst}', '--config', '{config}'), lambda: _network(None)),
    'untold': Converter('plain_to_mmkerv', ('{src}', '{dst}'), lambda: _network(None)),
    'publish': Converter('publish_model', ('{src}', '{dst}'), _operators),
    'publish raw': Converter('publish_model', ('{src}', '{dst}', '--no-ema'), _operators),
    'ckconv': Converter('ckconv_to_mmkerv', ('{src}', '{dst}'), authors_weights),
}


def replacements(rng: random.Random, value: Any) -> Any:
    """Return a value that does not belong in the place of ``value``."""
    shape = tuple(value.shape) if isinstance(value, Tensor) and value.numel() < 1000 else (2,)
    number = torch.rand(shape)
    cyclic: dict[str, Any] = {}
    cyclic['it'] = cyclic
    return rng.choice(
        [
            lambda: None,
            lambda: 'text\nerror: not ours \x1b[2J',
            lambda: 10**400,
            lambda: [value, [value]],
            lambda: {'weight': value},
            lambda: cyclic,
            lambda: np.zeros(shape),
            lambda: torch.full(shape, float('nan')),
            lambda: torch.full(shape, float('inf')),
            lambda: torch.full(shape, -1e38),
            lambda: number.to(rng.choice([torch.int8, torch.bool, torch.complex64, torch.half, torch.double])),
            lambda: number.bfloat16(),
            lambda: number.to_sparse() if shape else number,
            lambda: torch.quantize_per_tensor(number, 0.1, 0, torch.quint8),
            lambda: torch.empty(shape, device='meta'),
            lambda: nn.Parameter(number),
            lambda: torch.rand(shape[::-1]),
            lambda: torch.rand((*shape, 1)),
            lambda: torch.rand(()),
            lambda: torch.empty(0),
            lambda: torch.rand(()).expand(shape),
            # Tensors of few stored numbers, and of a size for which no machine has memory.
            lambda: torch.rand(1).expand(2**24, 2**20),
            lambda: torch.rand(2**12).as_strided((2**11,) * 4, (1, 0, 1, 0)),
            lambda: torch.rand(10).as_strided(shape, (1,) * len(shape)),
            lambda: torch.device('cpu'),
            lambda: slice(1, 2),
        ]
    )()


def mutated(rng: random.Random, checkpoint: Any) -> Any:
    """Change a checkpoint in one to three places: remove, rename or copy a key, or replace a value."""
    root = {'it': checkpoint}
    for _ in range(rng.choice((1, 1, 2, 3))):
        node, key = root, 'it'
        while isinstance(node[key], dict) and node[key] and rng.random() < 0.85:
            node = node[key]
            key = rng.choice(list(node))
        action = rng.random()
        if action < 0.5 or node is root:
            node[key] = replacements(rng, node[key])
        elif action < 0.65:
            del node[key]
        elif action < 0.8:
            node[rng.choice([f'{key}x', f'module.{key}', 7, b'bytes', ('a', 1), '', '\x1b[31m\nred', 'a' * 10**5])] = (
                node.pop(key)
            )
        else:
            node[rng.choice([f'module.{key}', f'backbone.{key}', 3, None, '../../evil', 'x.' * 2000])] = node[key]
        if not isinstance(root['it'], dict):
            break
    return root['it']


def stored(content: Any, zipped: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def repacked(data: bytes, change: Callable[[bytes], bytes], extra: dict[str, bytes] | None = None) -> bytes:
    """Return a zip archive with its pickle changed and valid checksums."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, 'w', zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith('data.pkl') else content)
        for name, content in (extra or {}).items():
            new.writestr(name, content)
    return out.getvalue()


def garbled(rng: random.Random, data: bytes) -> bytes:
    """Flip bits, and remove, double or insert bytes."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(max(1, len(data)))
        match rng.randrange(5):
            case 0:
                data[place : place + 1] = bytes([data[place] ^ 1 << rng.randrange(8)]) if data else b''
            case 1:
                del data[place : place + rng.choice((1, 4, 64))]
            case 2:
                data[place:place] = data[place : place + rng.choice((1, 8, 200))]
            case 3:
                data[place:place] = rng.randbytes(rng.choice((1, 4)))
            case 4:
                opcodes = [value for name, value in vars(pickle).items() if re.fullmatch('[A-Z0-9_]+', name)]
                data[place:place] = rng.choice([o for o in opcodes if isinstance(o, bytes) and len(o) == 1])
    return bytes(data)


def spliced(rng: random.Random, data: bytes, marker: Path) -> bytes:
    """Insert the opcodes of a malicious value into a pickle: at its start, end or anywhere, popped again or left."""
    name = rng.choice(list(malicious_files.MALICIOUS_PICKLES))
    malicious = malicious_files.MALICIOUS_PICKLES[name](marker)
    head = b'\x80\x04' if name == 'dotted name' else data[:2]
    place = rng.choice((2, len(data) - 1, rng.randrange(2, len(data))))
    return head + data[2:place] + malicious + rng.choice((b'0', b'', b'\x85')) + data[place:]


def damaged(rng: random.Random, checkpoint: Any, marker: Path) -> tuple[str, bytes]:
    """Return the kind of damage and the content of one hostile file."""
    zipped = rng.random() < 0.7
    kind = rng.choice(('content',) * 5 + ('pickle', 'pickle', 'malicious', 'malicious', 'file', 'cut', 'deep', 'slip'))
    if kind == 'content':
        return kind, stored(mutated(rng, checkpoint), zipped)
    data = stored(checkpoint, zipped)
    if kind == 'cut':
        return kind, data[: rng.randrange(len(data))]
    if kind == 'file' or not zipped:
        return 'file', garbled(rng, data)
    if kind == 'malicious':
        return kind, repacked(data, lambda pickled: spliced(rng, pickled, marker))
    if kind == 'deep':
        depth = rng.choice((10, 2000, 200_000))
        return kind, repacked(data, lambda _: malicious_files.stream(b']' * depth + b'a' * (depth - 1)))
    if kind == 'slip':
        names = ('../../slipped', str(marker), 'archive/../../slipped', 'archive/data/999')
        return kind, repacked(data, lambda pickled: pickled, dict.fromkeys(names, b'x'))
    return kind, repacked(data, lambda pickled: garbled(rng, pickled))


def load_tool(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, TOOLS / 'model_converters' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, 'path', [*sys.path]):
        spec.loader.exec_module(module)
    return module


class Outcome(NamedTuple):
    converter: str
    kind: str
    status: str
    detail: str


def check(converter: str, content: bytes, kind: str, folder: Path, marker: Path) -> Outcome:
    """Run a converter on one file; the status is ``done``, ``refused`` or ``FAILED``."""
    tool, arguments, _ = CONVERTERS[converter]
    out = folder / 'out'
    out.mkdir(exist_ok=True)
    files = {'config': folder / 'config.py', 'src': folder / 'src.pth', 'dst': out / 'new.pth'}
    files['config'].write_text(CONFIG)
    files['src'].write_bytes(content)
    for left in out.iterdir():
        left.unlink()
    for name in ('new.pth', 'new.py'):
        (out / name).write_bytes(OLD)
    module = load_tool(tool)
    argv = [tool, *(argument.format_map(files) for argument in arguments)]
    error: BaseException | None = None
    with (
        mock.patch.object(sys, 'argv', argv),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter('ignore')
        try:
            module.run(module.main)
        except BaseException as caught:
            error = caught
    problem = _problem(error, out, tool, marker)
    if problem:
        return Outcome(converter, kind, 'FAILED', problem)
    return Outcome(converter, kind, 'refused' if error else 'done', str(error or ''))


def _problem(error: BaseException | None, out: Path, tool: str, marker: Path) -> str:
    if marker.exists():
        return 'code was executed'
    names = sorted(path.name for path in out.iterdir())
    if isinstance(error, SystemExit):
        message = str(error.code)
        if not re.fullmatch(r'error: [^\n]{20,4000}', message) or not message.isprintable():
            return f'the message is not one readable line: {message[:300]!r}'
        if names != ['new.pth', 'new.py'] or any((out / name).read_bytes() != OLD for name in names):
            return f'refused, but files changed: {names}'
        return ''
    if error is not None:
        return f'{type(error).__name__}: {str(error)[:300]}'
    new = next((path for path in out.glob('new-*.pth')), out / 'new.pth')
    if (out / 'new.pth').read_bytes() != OLD and tool == 'publish_model':
        return 'publishing overwrote a file'
    if tool == 'publish_model':
        return ''
    weights = safe_load(new)['state_dict']
    bad = [name for name, value in weights.items() if not isinstance(value, Tensor) or not bool(value.isfinite().all())]
    return f'wrote invalid weights: {bad[:3]}' if bad else ''


def fuzz(count: int, folder: Path, seed: int = 0) -> Iterator[Outcome]:
    """Yield the outcomes of ``count`` damaged files, given to the converters in turn."""
    marker = folder / 'executed'
    names = list(CONVERTERS)
    for number in range(count):
        rng = random.Random(f'{seed}/{number}')
        torch.manual_seed(number)
        converter = names[number % len(names)]
        kind, content = damaged(rng, CONVERTERS[converter].checkpoint(), marker)
        yield check(converter, content, f'{number} {kind}', folder, marker)
        marker.unlink(missing_ok=True)
        marker.with_suffix('.npy').unlink(missing_ok=True)


def main(count: int) -> int:
    """Fuzz, and print a table and the failures: ``python tests/engine/checkpoint/fuzz_converters.py 2000``."""
    import tempfile
    from collections import Counter

    start, counts, failures = time.monotonic(), Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for outcome in fuzz(count, Path(folder)):
            counts[outcome.converter, outcome.status] += 1
            if outcome.status == 'FAILED':
                failures.append(outcome)
    for (converter, status), number in sorted(counts.items()):
        print(f'{converter:12} {status:8} {number:5d}')
    for outcome in failures[:60]:
        print(outcome)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f'{count} cases, {len(failures)} failures, {time.monotonic() - start:.0f} s, peak {peak:.2f} GiB')
    return bool(failures)


if __name__ == '__main__':
    sys.exit(main(int(sys.argv[1])))
