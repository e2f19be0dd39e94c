"""Malicious checkpoints, which run a command that creates a file if they are unpickled without restriction.

They are built from opcodes, because a pickle can hold more than the pickler ever writes.
"""

import pickle
import struct
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def glob(module: str, name: str) -> bytes:
    return f'c{module}\n{name}\n'.encode()


def text(value: str) -> bytes:
    encoded = value.encode()
    return pickle.BINUNICODE + struct.pack('<I', len(encoded)) + encoded


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b'(' + b''.join(arguments) + b'tR'


def build(instance: bytes, state: bytes) -> bytes:
    return instance + state + b'b'


def dictionary(**items: bytes) -> bytes:
    return b'}' + b''.join(text(key) + value + b's' for key, value in items.items())


def getattr_of(item: bytes, name: str) -> bytes:
    return call(glob('builtins', 'getattr'), item, text(name))


NUMPY = np.zeros(0).__reduce__()[0].__module__
HISTORY = glob(HistoryBuffer.__module__, HistoryBuffer.__qualname__)


def code(target: Path) -> bytes:
    return text(f'open({str(target)!r}, "w").close()')


def shell(target: Path) -> bytes:
    return text(f'touch {target}')


def execute(target: Path) -> bytes:
    return call(glob('__builtin__', 'exec'), code(target))


def from_history(target: Path) -> bytes:
    of_module = getattr_of(getattr_of(getattr_of(HISTORY, 'update'), '__globals__'), '__getitem__')
    of_builtins = getattr_of(call(of_module, text('__builtins__')), '__getitem__')
    return call(call(of_builtins, text('exec')), code(target))


def in_array(target: Path) -> bytes:
    array = call(glob(NUMPY, '_reconstruct'), glob('numpy', 'ndarray'), b'(K\x00t', text('b'))
    kind = call(glob('numpy', 'dtype'), text('O'))
    return build(array, b'(K\x01(K\x01t' + kind + b'\x89]' + execute(target) + b'at')


def by_numpy_load(target: Path) -> bytes:
    file = target.with_suffix('.npy')
    with open(file, 'wb') as array:
        np.lib.format.write_array_header_1_0(array, {'descr': '|O', 'fortran_order': False, 'shape': (1,)})
        array.write(stream(execute(target)))
    return call(glob('numpy', 'load'), text(str(file)), b'N', b'\x88')


def by_load_from_bytes(target: Path) -> bytes:
    encoded = call(glob('_codecs', 'encode'), text(legacy(execute(target)).decode('latin1')), text('latin1'))
    return call(glob('torch.storage', '_load_from_bytes'), encoded)


# Way of attack -> function that returns the opcodes of a value which creates the file `target`.
MALICIOUS_PICKLES = {
    'exec': execute,
    'exec under its new name': lambda target: call(glob('builtins', 'exec'), code(target)),
    'shell command': lambda target: call(glob('posix', 'system'), shell(target)),
    'instance of protocol 0': lambda target: b'(' + shell(target) + b'iposix\nsystem\n',
    'object opcode': lambda target: b'(' + glob('posix', 'system') + shell(target) + b'o',
    'dotted name': lambda target: call(text('torch.serialization') + text('os.system') + b'\x93', shell(target)),
    'method of an import': lambda target: call(
        getattr_of(call(glob('builtins', '__import__'), text('os')), 'system'), shell(target)
    ),
    'getattr from HistoryBuffer': from_history,
    'state of a HistoryBuffer': lambda target: build(HISTORY + b')\x81', dictionary(max_length=execute(target))),
    'object in a numpy array': in_array,
    'numpy.load': by_numpy_load,
    'torch.storage._load_from_bytes': by_load_from_bytes,
}


def hidden(place: str, value: bytes) -> bytes:
    """Return the opcodes of a checkpoint that is ``value``, or has it under the key ``place``."""
    if place == 'alone':
        return value
    return dictionary(**{key: dictionary(it=value if key == place else b'N') for key in ('meta', 'state_dict')})


def stream(opcodes: bytes) -> bytes:
    # torch writes protocol 2; dotted names need protocol 4.
    return pickle.PROTO + (b'\x04' if b'os.system' in opcodes else b'\x02') + opcodes + b'.'


def legacy(opcodes: bytes) -> bytes:
    """Return a file in torch's format before 1.6, a sequence of pickles."""
    header = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}]
    return b''.join([*(pickle.dumps(item, 2) for item in header), stream(opcodes), pickle.dumps([], 2)])


def write(file: Path, opcodes: bytes, zipped: bool = True) -> Path:
    """Write a checkpoint whose pickle consists of ``opcodes``."""
    if not zipped:
        file.write_bytes(legacy(opcodes))
        return file
    with torch.serialization._open_zipfile_writer(str(file)) as archive:
        archive.write_record('data.pkl', stream(opcodes), len(stream(opcodes)))
    return file
