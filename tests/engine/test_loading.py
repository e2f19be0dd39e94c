import contextlib
import io
import random
import tarfile
import warnings
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from bombs import BOMBS, HISTORY, NUMPY, build, call, dictionary, getattr_of, glob, hidden, stream, text, write
from engine.tiny_runner import tiny_runner
from mmengine.logging import HistoryBuffer

from mmkerv.engine import UnsafeCheckpointError, install_safe_loading, safe_load

FORMATS = pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])


def assert_equal(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for first, second in zip(one, other):
            assert_equal(first, second)
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and np.array_equal(one, other)
    elif isinstance(one, HistoryBuffer):
        assert_equal(vars(one), vars(other))
    else:
        assert one == other


@FORMATS
def test_checkpoint_of_a_runner_comes_back_whole(trained, tmp_path, zipped):
    file = tmp_path / 'it.pth'
    whole = torch.load(f'{trained.work_dir}/it.pth', weights_only=False)
    torch.save(whole, file, _use_new_zipfile_serialization=zipped)
    loaded = safe_load(file)
    assert_equal(loaded, torch.load(file, weights_only=False))
    assert {'meta', 'state_dict', 'ema_state_dict', 'message_hub', 'optimizer', 'param_schedulers'} <= set(loaded)
    losses = loaded['message_hub']['log_scalars']['train/loss']
    assert isinstance(losses, HistoryBuffer) and losses.statistics('mean') == losses.mean() > 0
    assert loaded['optimizer']['state'][0]['momentum_buffer'].abs().sum() > 0


@FORMATS
def test_names_of_the_other_numpy_are_known(tmp_path, zipped):
    here, there = ('numpy._core', 'numpy.core') if NUMPY.startswith('numpy._core') else ('numpy.core', 'numpy._core')
    content = {'number': np.float64(0.5), 'array': np.arange(3), 'flag': np.bool_(True), 'words': np.array(['a', 'bc'])}
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    assert f'c{here}.multiarray\n'.encode() in stream.getvalue()
    file = tmp_path / 'it.pth'
    file.write_bytes(stream.getvalue().replace(f'c{here}.'.encode(), f'c{there}.'.encode()))
    if zipped:
        pickled = file.read_bytes().split(b'.multiarray\n', 1)
        head = pickled[0].rindex(b'\x80\x02')
        body = pickled[0][head + 2 :] + b'.multiarray\n' + pickled[1]
        file = write(file, body[: body.rindex(b'.\x80\x02')])
    assert_equal(safe_load(file), content)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.half, torch.double, torch.int8, torch.bool, torch.complex64])
def test_tensors_of_every_type(tmp_path, dtype):
    content = {'w': torch.ones(2, 3).to(dtype).t(), 'p': torch.nn.Parameter(torch.ones(2)), 'd': torch.device('cpu')}
    torch.save(content, tmp_path / 'it.pth')
    assert_equal(safe_load(tmp_path / 'it.pth'), content)


@FORMATS
@pytest.mark.parametrize('place', ['alone', 'meta', 'state_dict'])
@pytest.mark.parametrize('bomb', BOMBS)
def test_bomb_is_not_set_off(tmp_path, bomb, place, zipped):
    target = tmp_path / 'target'
    file = write(tmp_path / 'bomb.pth', hidden(place, BOMBS[bomb](target)), zipped)
    with pytest.raises(UnsafeCheckpointError, match=r'bomb\.pth.*Nothing of it was executed.*--trust-checkpoint'):
        safe_load(file)
    assert not target.exists()


@FORMATS
@pytest.mark.parametrize('bomb', BOMBS)
def test_bomb_is_live(tmp_path, bomb, zipped):
    target = tmp_path / 'target'
    file = write(tmp_path / 'bomb.pth', hidden('meta', BOMBS[bomb](target)), zipped)
    with contextlib.suppress(UnsafeCheckpointError):
        safe_load(file, trust=True)
    assert target.exists()


class Program(torch.nn.Module):
    target: str

    def __init__(self, target: str):
        super().__init__()
        self.target = target

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self):
        return self.target, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.target, self.training = state
        torch.save(torch.zeros(1), self.target)


@pytest.mark.parametrize('trust', [False, True])
def test_torchscript_archive_runs_only_if_trusted(tmp_path, trust):
    target = tmp_path / 'target'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.save(torch.jit.script(Program(str(target))), tmp_path / 'script.pth')
        target.unlink(missing_ok=True)
        with contextlib.nullcontext() if trust else pytest.raises(UnsafeCheckpointError, match='TorchScript'):
            safe_load(tmp_path / 'script.pth', trust=trust)
    assert target.exists() == trust


@FORMATS
@pytest.mark.parametrize(
    'opcodes',
    [
        # A class is filled in: every HistoryBuffer of the process would have another `update`.
        build(HISTORY, b'N' + dictionary(update=HISTORY) + b'\x86'),
        # So is a function.
        build(glob('torch._utils', '_rebuild_tensor_v2'), b'N' + dictionary(polluted=b'N') + b'\x86'),
        # A function that getattr gave is called: it changes the class.
        call(getattr_of(HISTORY, 'register_statistics'), HISTORY),
    ],
    ids=['class', 'function', 'method'],
)
def test_classes_and_functions_are_not_changed(tmp_path, opcodes, zipped):
    update, statistics = HistoryBuffer.update, dict(HistoryBuffer._statistics_methods)
    with pytest.raises(UnsafeCheckpointError):
        safe_load(write(tmp_path / 'it.pth', opcodes, zipped))
    assert HistoryBuffer.update is update and HistoryBuffer._statistics_methods == statistics
    assert not hasattr(torch._utils._rebuild_tensor_v2, 'polluted')


def number(value: int) -> bytes:
    return f'I{value}\n'.encode()


def kind(state: bytes = b'', name: str = 'f8') -> bytes:
    """A type of numpy, as it is pickled, with a state."""
    made = call(glob('numpy', 'dtype'), text(name), b'\x89', b'\x88')
    return build(made, state) if state else made


def state(*middle: bytes, flags: int = 0) -> bytes:
    return b'(' + number(3) + text('<') + b''.join(middle) + number(-1) + number(-1) + number(flags) + b't'


def array_of(made: bytes) -> bytes:
    """An array whose eight bytes numpy is to take for what the type says, which may be an address."""
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
    """A tensor with an attribute."""
    rebuild = glob('torch._utils', '_rebuild_meta_tensor_no_storage')
    arguments = b'(' + glob('torch', 'float32') + b'(K\x02t(K\x01t\x89t'
    notes = b'}' + text(name) + value + b's'
    return call(glob('torch._tensor', '_rebuild_from_type_v2'), rebuild, glob('torch', 'Tensor'), arguments, notes)


def storage(*more: bytes) -> bytes:
    words = text('storage'), glob('torch', 'FloatStorage'), text('0'), text('cpu'), *more
    return b'(' + b''.join(words) + b'tQ'


FORGED |= {
    # Whose indices are there when they are: a file of the older kind ends with them.
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
def test_numpy_is_given_no_address(tmp_path, forged, zipped):
    """Whoever took the bytes for the address of an object would crash, or do worse."""
    with pytest.raises(UnsafeCheckpointError, match=r'not allowed|it names'):
        safe_load(write(tmp_path / 'it.pth', FORGED[forged], zipped))


@FORMATS
def test_types_of_numpy_stay_those_of_the_process(tmp_path, zipped):
    safe_load(write(tmp_path / 'it.pth', call(glob(NUMPY, 'scalar'), kind(name='S'), b'U\x01a'), zipped))
    assert np.dtype('S').itemsize == 0 and np.array(['abc']).astype('S')[0] == b'abc'


@pytest.mark.parametrize('claimed', [4, 5, 2**14, 2**40])
def test_storage_is_as_large_as_its_record(tmp_path, claimed):
    """What lies behind it in memory is none of the file's."""
    rebuild = glob('torch._utils', '_rebuild_tensor')
    tensor = call(rebuild, storage(number(claimed)), number(0), b'(' + number(claimed) + b't', b'(K\x01t')
    opcodes, file = stream(tensor), tmp_path / 'it.pth'
    with torch.serialization._open_zipfile_writer(str(file)) as archive:
        archive.write_record('data.pkl', opcodes, len(opcodes))
        archive.write_record('data/0', b'\0' * 16, 16)
    with contextlib.nullcontext() if claimed == 4 else pytest.raises(UnsafeCheckpointError):
        assert torch.equal(safe_load(file), torch.zeros(4))


@pytest.mark.parametrize(('size', 'stride', 'offset'), [(5, 1, 0), (2, 4, 0), (4, 1, 1), (-1, 1, 0), (2, -1, 3)])
def test_tensor_is_not_larger_than_its_storage(tmp_path, size, stride, offset):
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
        # It warns that hooks are no part of a checkpoint; they are all the same.
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
def test_what_checkpoints_hold_comes_back(tmp_path, what, zipped):
    torch.save(LEGITIMATE[what], tmp_path / 'it.pth', _use_new_zipfile_serialization=zipped)
    loaded = safe_load(tmp_path / 'it.pth')
    assert len(loaded) == len(LEGITIMATE[what])
    for one, other in zip(loaded, LEGITIMATE[what]):
        assert type(one) is type(other)
        if isinstance(one, HistoryBuffer):
            assert_equal(one.data, other.data)
        elif isinstance(one, (np.ndarray, np.generic)):
            # numpy gives back arrays in the order of bytes of the machine.
            assert one.dtype == other.dtype.newbyteorder('=') and one.shape == other.shape
            assert np.array_equal(one, other)
        elif isinstance(one, torch.Tensor):
            assert one.stride() == other.stride() and torch.equal(one, other)
        else:
            assert one == other


@FORMATS
def test_parameters_and_quantised_tensors_come_back(tmp_path, zipped):
    noted = torch.nn.Parameter(torch.ones(2))
    noted.note = 'mine'
    quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)
    torch.save([noted, quantised], tmp_path / 'it.pth', _use_new_zipfile_serialization=zipped)
    parameter, loaded = safe_load(tmp_path / 'it.pth')
    assert type(parameter) is torch.nn.Parameter and parameter.note == 'mine' and parameter.requires_grad
    assert torch.equal(loaded.dequantize(), quantised.dequantize())


def test_scheduler_of_one_cycle_is_resumed(tmp_path):
    schedule = dict(type='OneCycleLR', eta_max=0.1, total_steps=4, by_epoch=False)
    writing = dict(checkpoint=dict(type='CheckpointHook', interval=1))
    tiny_runner(tmp_path, param_scheduler=schedule, default_hooks=writing).train()
    assert 'anneal' in str(safe_load(tmp_path / 'epoch_1.pth')['param_schedulers'])
    install_safe_loading()
    settings = dict(param_scheduler=schedule, train_cfg=dict(by_epoch=True, max_epochs=2))
    runner = tiny_runner(tmp_path / 'on', resume=True, load_from=str(tmp_path / 'epoch_1.pth'), **settings)
    runner.train()
    assert runner.iter == 4


@FORMATS
def test_such_an_array_of_numbers_is_read(tmp_path, zipped):
    plain = array_of(kind(state(b'N', b'N', b'N')))
    assert safe_load(write(tmp_path / 'it.pth', plain, zipped)).tobytes() == b'A' * 8


def test_what_torch_unpacks_is_refused(tmp_path):
    with tarfile.open(tmp_path / 'it.pth', 'w') as archive:
        archive.add(__file__, 'storages')
    with pytest.raises(UnsafeCheckpointError, match='tar archive'):
        safe_load(tmp_path / 'it.pth')


@FORMATS
def test_tensor_with_attributes_comes_back(tmp_path, zipped):
    tensor = torch.ones(2)
    tensor.note = 'mine'
    torch.save(tensor, tmp_path / 'it.pth', _use_new_zipfile_serialization=zipped)
    loaded = safe_load(tmp_path / 'it.pth')
    assert torch.equal(loaded, tensor) and loaded.note == 'mine'


@FORMATS
def test_getattr_gives_the_statistics_of_a_history_and_nothing_else(tmp_path, zipped):
    file = write(tmp_path / 'it.pth', dictionary(a=getattr_of(HISTORY, 'mean')), zipped)
    assert safe_load(file) == {'a': HistoryBuffer.mean}
    for owner, name in ((HISTORY, '__init__'), (glob('collections', 'OrderedDict'), 'keys')):
        with pytest.raises(UnsafeCheckpointError, match=rf'getattr\(<.*, {name!r}\) is not allowed'):
            safe_load(write(tmp_path / 'it.pth', getattr_of(owner, name), zipped))


@pytest.mark.parametrize(
    'content', [b'', b'epoch 12\n' * 100, b'PK\x03\x04', b'{"a": 1}'], ids=['empty', 'text', 'zip head', 'json']
)
@pytest.mark.parametrize('trust', [False, True])
def test_no_checkpoint_at_all(tmp_path, content, trust):
    file = tmp_path / 'it.pth'
    file.write_bytes(content)
    with pytest.raises(UnsafeCheckpointError) as caught:
        safe_load(file, trust=trust)
    message = str(caught.value)
    assert str(file) in message and 'damaged' in message and '\n' not in message
    assert ('--trust-checkpoint' in message) != trust


@FORMATS
def test_damaged_checkpoint_has_one_kind_of_error(trained, zipped):
    stream, rng = io.BytesIO(), random.Random(0)
    torch.save(safe_load(f'{trained.work_dir}/it.pth'), stream, _use_new_zipfile_serialization=zipped)
    whole, kinds = stream.getvalue(), set()
    for i in range(300):
        if i % 2:
            damaged = whole[: rng.randrange(len(whole))]
        else:
            place = rng.randrange(min(len(whole), 6000))
            damaged = whole[:place] + bytes([rng.randrange(256)]) + whole[place + 1 :]
        try:
            safe_load(io.BytesIO(damaged))
        except UnsafeCheckpointError as error:
            assert '\n' not in str(error)
            kinds.add(type(error.__cause__).__name__)
    assert len(kinds) >= 4, kinds


@pytest.mark.parametrize('trust', [False, True])
@pytest.mark.parametrize('name', ['absent.pth', '.'])
def test_missing_checkpoint(tmp_path, name, trust):
    with pytest.raises(FileNotFoundError, match=r'checkpoint .* does not exist; give the path of a \.pth file'):
        safe_load(tmp_path / name, trust=trust)


def test_what_is_refused_is_named(tmp_path):
    torch.save({'meta': {'model': torch.nn.Linear(1, 1)}}, tmp_path / 'it.pth')
    with pytest.raises(UnsafeCheckpointError, match=r'it names torch\.nn\.modules\.linear\.Linear'):
        safe_load(tmp_path / 'it.pth')
    assert isinstance(safe_load(tmp_path / 'it.pth', trust=True)['meta']['model'], torch.nn.Linear)
