"""Pickles built from opcodes are refused, and the objects of checkpoints load unchanged."""

import contextlib
import warnings
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmkerv.engine import apply_patches, safe_load
from mmkerv.errors import UnsafeCheckpointError
from tests.engine.tiny_runner import tiny_runner
from tests.malicious_files import HISTORY, NUMPY, build, call, dictionary, getattr_of, glob, stream, text, write

FORMATS = pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])


def number(value: int) -> bytes:
    return f'I{value}\n'.encode()


def kind(state: bytes = b'', name: str = 'f8') -> bytes:
    """Return the opcodes of a numpy dtype, optionally with a state."""
    made = call(glob('numpy', 'dtype'), text(name), b'\x89', b'\x88')
    return build(made, state) if state else made


def state(*middle: bytes, flags: int = 0) -> bytes:
    return b'(' + number(3) + text('<') + b''.join(middle) + number(-1) + number(-1) + number(flags) + b't'


def array_of(made: bytes) -> bytes:
    """Return the opcodes of an array of eight bytes, which numpy would read as its dtype demands, even as pointers."""
    empty = call(glob(NUMPY, '_reconstruct'), glob('numpy', 'ndarray'), b'(K\x00t', text('b'))
    return build(empty, b'(K\x01(K\x01t' + made + b'\x89' + b'U\x08AAAAAAAAt')


OBJECT = b'(' + kind(name='O') + number(0) + b't'
FIELD = state(b'N', b'(' + text('a') + b't', dictionary(a=OBJECT), flags=1)
FORGED = {
    'objects among the fields': array_of(kind(FIELD)),
    'flags': array_of(kind(state(b'N', b'N', b'N', flags=63))),
    'an array within': array_of(kind(state(b'(' + kind(name='O') + b'(K\x01tt', b'N', b'N'))),
    'a type of objects': array_of(kind(name='O')),
    'a type that is a list of fields': array_of(call(glob('numpy', 'dtype'), b'](' + text('a') + text('O') + b'ta')),
    'a type that is words': array_of(kind(name='f8,O')),
    'a new type': array_of(glob('numpy', 'dtype') + b'(' + text('O') + b't\x81'),
    'a new array': glob('numpy', 'ndarray') + b'((K\x01t' + text('O') + b't\x81',
    'an array that is called': call(glob('numpy', 'ndarray'), b'(K\x01t', text('O')),
    'a number': call(glob(NUMPY, 'scalar'), kind(FIELD), b'U\x08AAAAAAAA'),
    'a call by torch': array_of(
        call(
            glob('torch._tensor', '_rebuild_from_type_v2'),
            *(glob('numpy', 'dtype'), glob('torch', 'Tensor'), b'(' + text('f8') + b'\x89\x88t', FIELD),
        )
    ),
}


EMPTY = HISTORY + b')\x81'
ORDERED = call(glob('collections', 'OrderedDict'))
ADDRESS = b'(' + number(0x41414141) + b'\x89t'
INTERFACE = dictionary(data=ADDRESS, typestr=text('|O'), shape=b'(K\x01t', version=number(3))


def attributed(name: str, value: bytes) -> bytes:
    """Return the opcodes of a tensor with an attribute."""
    rebuild = glob('torch._utils', '_rebuild_meta_tensor_no_storage')
    arguments = b'(' + glob('torch', 'float32') + b'(K\x02t(K\x01t\x89t'
    notes = b'}' + text(name) + value + b's'
    return call(glob('torch._tensor', '_rebuild_from_type_v2'), rebuild, glob('torch', 'Tensor'), arguments, notes)


def storage(*more: bytes) -> bytes:
    words = text('storage'), glob('torch', 'FloatStorage'), text('0'), text('cpu'), *more
    return b'(' + b''.join(words) + b'tQ'


FORGED |= {
    # In the format before zip its indices come last, after they are used.
    'a sparse tensor': glob('torch._utils', '_rebuild_sparse_tensor'),
    'methods of a dictionary': build(ORDERED, dictionary(get=glob('builtins', 'set'))),
    'methods of a counter': build(call(glob('collections', 'Counter')), dictionary(pop=glob('builtins', 'slice'))),
    'an interface of numpy': build(EMPTY, dictionary(__array_interface__=INTERFACE)),
    'a history that is called': call(HISTORY, b'](K\x01e', b'](K\x01e'),
    'an item of an array': array_of(kind()) + number(0) + number(1) + b's',
    'other statistics': build(EMPTY, dictionary(statistics_methods=dictionary(mean=getattr_of(HISTORY, 'max')))),
    'more statistics': build(EMPTY, dictionary(statistics_methods=dictionary(evil=getattr_of(HISTORY, 'max')))),
    'a history with methods': build(EMPTY, dictionary(append=getattr_of(HISTORY, 'max'))),
    'something that appends': EMPTY + HISTORY + b'a',
    'arguments in a dictionary': glob('numpy', 'dtype') + b'}' + text('O') + b'Ns' + number(0) + text('f8') + b'sR',
    'an encoding of something': call(glob('_codecs', 'encode'), HISTORY, text('latin1')),
    'an interface of a tensor': attributed('__array_interface__', INTERFACE),
    'a method of a tensor': attributed('detach', HISTORY),
    'the class of a tensor': attributed('__class__', HISTORY),
    'a module': b'(' + text('module') + HISTORY + text('a') + text('b') + b'tQ',
    'a view of a storage': storage(number(4), b'(' + text('v') + number(0) + number(4) + b't'),
}


@FORMATS
@pytest.mark.parametrize('forged', FORGED)
def test_forged_pickle_is_refused(tmp_path, forged, zipped):
    """numpy would take the bytes for the address of an object, and crash or run code."""
    with pytest.raises(UnsafeCheckpointError, match=r'not allowed|it names'):
        safe_load(write(tmp_path / 'it.pth', FORGED[forged], zipped))


@FORMATS
def test_dtypes_of_the_process_are_not_changed(tmp_path, zipped):
    safe_load(write(tmp_path / 'it.pth', call(glob(NUMPY, 'scalar'), kind(name='S'), b'U\x01a'), zipped))
    assert np.dtype('S').itemsize == 0 and np.array(['abc']).astype('S')[0] == b'abc'


@pytest.mark.parametrize('claimed', [4, 5, 2**14, 2**40])
def test_storage_must_have_the_size_of_its_record(tmp_path, claimed):
    """A larger storage would read memory beyond the record."""
    rebuild = glob('torch._utils', '_rebuild_tensor')
    tensor = call(rebuild, storage(number(claimed)), number(0), b'(' + number(claimed) + b't', b'(K\x01t')
    opcodes, file = stream(tensor), tmp_path / 'it.pth'
    with torch.serialization._open_zipfile_writer(str(file)) as archive:
        archive.write_record('data.pkl', opcodes, len(opcodes))
        archive.write_record('data/0', b'\0' * 16, 16)
    with contextlib.nullcontext() if claimed == 4 else pytest.raises(UnsafeCheckpointError):
        assert torch.equal(safe_load(file), torch.zeros(4))


@pytest.mark.parametrize(('size', 'stride', 'offset'), [(5, 1, 0), (2, 4, 0), (4, 1, 1), (-1, 1, 0), (2, -1, 3)])
def test_tensor_past_its_storage_is_refused(tmp_path, size, stride, offset):
    rebuild = glob('torch._utils', '_rebuild_tensor')
    shape = b'(' + number(size) + b't', b'(' + number(stride) + b't'
    opcodes, file = stream(call(rebuild, storage(number(4)), number(offset), *shape)), tmp_path / 'it.pth'
    with torch.serialization._open_zipfile_writer(str(file)) as archive:
        archive.write_record('data.pkl', opcodes, len(opcodes))
        archive.write_record('data/0', b'\0' * 16, 16)
    with pytest.raises(UnsafeCheckpointError, match='not allowed'):
        safe_load(file)


@FORMATS
def test_hooks_in_a_file_are_not_called(tmp_path, zipped):
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter._backward_hooks = OrderedDict(a=slice(1))
    with warnings.catch_warnings():
        # torch warns that hooks are not serialised, but serialises them.
        warnings.simplefilter('ignore')
        file = tmp_path / 'it.pth'
        torch.save(parameter, file, _use_new_zipfile_serialization=zipped)
    assert not safe_load(file)._backward_hooks


LEGITIMATE = {
    'nothing': [b'', np.zeros(0), np.zeros((0, 4), np.float32), np.str_(''), np.bytes_(b''), HistoryBuffer()],
    'types': [torch.bfloat16, torch.qint8, torch.float32, torch.strided, torch.per_tensor_affine],
    'numbers': [np.float32(1.5), np.int8(-1), np.bool_(True), np.complex64(1j), np.bytes_(b'ab'), np.str_('ab')],
    'arrays': [np.arange(6).reshape(2, 3), np.ones((3, 2)).T, np.arange(3, dtype='>i4'), np.array(['a', 'bc'])],
    'containers': [Counter('aab'), {1, 2}, slice(1, 2), bytearray(b'ab'), 1j, torch.Size([1]), OrderedDict(a=1)],
    'views': [torch.ones(2, 3).t(), torch.arange(6.0)[2:4], torch.ones(1).expand(3), torch.ones(2, 0)],
    'conjugated': [torch.ones(2, dtype=torch.complex64).conj(), torch.ones(2, dtype=torch.complex64).imag],
}


@FORMATS
@pytest.mark.parametrize('what', LEGITIMATE)
def test_objects_of_checkpoints_load_unchanged(tmp_path, what, zipped):
    torch.save(LEGITIMATE[what], tmp_path / 'it.pth', _use_new_zipfile_serialization=zipped)
    loaded = safe_load(tmp_path / 'it.pth')
    assert len(loaded) == len(LEGITIMATE[what])
    for actual, expected in zip(loaded, LEGITIMATE[what]):
        assert type(actual) is type(expected)
        if isinstance(actual, HistoryBuffer):
            assert all(map(np.array_equal, actual.data, expected.data))
        elif isinstance(actual, (np.ndarray, np.generic)):
            # numpy loads arrays in the machine's byte order.
            assert actual.dtype == expected.dtype.newbyteorder('=') and actual.shape == expected.shape
            assert np.array_equal(actual, expected)
        elif isinstance(actual, torch.Tensor):
            assert actual.stride() == expected.stride() and torch.equal(actual, expected)
        else:
            assert actual == expected


@FORMATS
def test_parameters_and_quantised_tensors_load_unchanged(tmp_path, zipped):
    noted = torch.nn.Parameter(torch.ones(2))
    noted.note = 'mine'
    quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)
    torch.save([noted, quantised], tmp_path / 'it.pth', _use_new_zipfile_serialization=zipped)
    parameter, loaded = safe_load(tmp_path / 'it.pth')
    assert type(parameter) is torch.nn.Parameter and parameter.note == 'mine' and parameter.requires_grad
    assert torch.equal(loaded.dequantize(), quantised.dequantize())


def test_one_cycle_scheduler_is_resumed(tmp_path):
    schedule = dict(type='OneCycleLR', eta_max=0.1, total_steps=4, by_epoch=False)
    writing = dict(checkpoint=dict(type='CheckpointHook', interval=1))
    tiny_runner(tmp_path, param_scheduler=schedule, default_hooks=writing).train()
    assert 'anneal' in str(safe_load(tmp_path / 'epoch_1.pth')['param_schedulers'])
    apply_patches()
    settings = dict(param_scheduler=schedule, train_cfg=dict(by_epoch=True, max_epochs=2))
    runner = tiny_runner(tmp_path / 'on', resume=True, load_from=str(tmp_path / 'epoch_1.pth'), **settings)
    runner.train()
    assert runner.iter == 4


@FORMATS
def test_array_of_plain_numbers_is_loaded(tmp_path, zipped):
    plain = array_of(kind(state(b'N', b'N', b'N')))
    assert safe_load(write(tmp_path / 'it.pth', plain, zipped)).tobytes() == b'A' * 8


@FORMATS
def test_tensor_with_attributes_loads_unchanged(tmp_path, zipped):
    tensor = torch.ones(2)
    tensor.note = 'mine'
    torch.save(tensor, tmp_path / 'it.pth', _use_new_zipfile_serialization=zipped)
    loaded = safe_load(tmp_path / 'it.pth')
    assert torch.equal(loaded, tensor) and loaded.note == 'mine'
