import contextlib
import io
import random
import tarfile
import warnings

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmkerv.engine import safe_load
from mmkerv.errors import UnsafeCheckpointError
from tests.malicious_files import (
    HISTORY,
    MALICIOUS_PICKLES,
    NUMPY,
    build,
    call,
    dictionary,
    getattr_of,
    glob,
    hidden,
    write,
)

FORMATS = pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])


def assert_equal(actual, expected):
    assert type(actual) is type(expected)
    if isinstance(actual, dict):
        assert list(actual) == list(expected)
        for key in actual:
            assert_equal(actual[key], expected[key])
    elif isinstance(actual, (list, tuple)):
        assert len(actual) == len(expected)
        for first, second in zip(actual, expected):
            assert_equal(first, second)
    elif isinstance(actual, torch.Tensor):
        assert actual.dtype == expected.dtype and torch.equal(actual, expected)
    elif isinstance(actual, np.ndarray):
        assert actual.dtype == expected.dtype and np.array_equal(actual, expected)
    elif isinstance(actual, HistoryBuffer):
        assert_equal(vars(actual), vars(expected))
    else:
        assert actual == expected


@FORMATS
def test_checkpoint_of_a_runner_loads_unchanged(trained, tmp_path, zipped):
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
def test_names_of_numpy_1_and_2_are_allowed(tmp_path, zipped):
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
def test_tensors_of_every_type_load_unchanged(tmp_path, dtype):
    content = {'w': torch.ones(2, 3).to(dtype).t(), 'p': torch.nn.Parameter(torch.ones(2)), 'd': torch.device('cpu')}
    torch.save(content, tmp_path / 'it.pth')
    assert_equal(safe_load(tmp_path / 'it.pth'), content)


@FORMATS
@pytest.mark.parametrize('place', ['alone', 'meta', 'state_dict'])
@pytest.mark.parametrize('attack', MALICIOUS_PICKLES)
def test_malicious_pickle_is_not_executed(tmp_path, attack, place, zipped):
    target = tmp_path / 'target'
    file = write(tmp_path / 'malicious.pth', hidden(place, MALICIOUS_PICKLES[attack](target)), zipped)
    with pytest.raises(UnsafeCheckpointError, match=r'malicious\.pth.*Nothing of it was executed.*--trust-checkpoint'):
        safe_load(file)
    assert not target.exists()


@FORMATS
@pytest.mark.parametrize('attack', MALICIOUS_PICKLES)
def test_malicious_pickle_is_executed_if_trusted(tmp_path, attack, zipped):
    target = tmp_path / 'target'
    file = write(tmp_path / 'malicious.pth', hidden('meta', MALICIOUS_PICKLES[attack](target)), zipped)
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
@pytest.mark.parametrize('trust', [False, True])
def test_reading_warns_of_nothing(tmp_path, zipped, trust):
    """torch warns of storages with a type, which are an affair of its own."""
    state = {'state_dict': torch.nn.Linear(2, 2).half().state_dict(), 'meta': {'iter': 1}}
    torch.save(state, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    torch.storage._set_always_warn_typed_storage_removal(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert_equal(safe_load(tmp_path / 'a.pth', trust=trust)['state_dict'], state['state_dict'])
    finally:
        torch.storage._set_always_warn_typed_storage_removal(False)


@FORMATS
@pytest.mark.parametrize(
    'opcodes',
    [
        # Setting the state of a class would replace `update` of every HistoryBuffer in the process.
        build(HISTORY, b'N' + dictionary(update=HISTORY) + b'\x86'),
        # Setting the state of a function.
        build(glob('torch._utils', '_rebuild_tensor_v2'), b'N' + dictionary(polluted=b'N') + b'\x86'),
        # Calling a function that getattr returned, which changes the class.
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


def test_tar_archive_is_refused(tmp_path):
    with tarfile.open(tmp_path / 'it.pth', 'w') as archive:
        archive.add(__file__, 'storages')
    with pytest.raises(UnsafeCheckpointError, match='tar archive'):
        safe_load(tmp_path / 'it.pth')


@FORMATS
def test_getattr_returns_statistics_of_a_history_only(tmp_path, zipped):
    file = write(tmp_path / 'it.pth', dictionary(a=getattr_of(HISTORY, 'mean')), zipped)
    assert safe_load(file) == {'a': HistoryBuffer.mean}
    for owner, name in ((HISTORY, '__init__'), (glob('collections', 'OrderedDict'), 'keys')):
        with pytest.raises(UnsafeCheckpointError, match=rf'getattr\(<.*, {name!r}\) is not allowed'):
            safe_load(write(tmp_path / 'it.pth', getattr_of(owner, name), zipped))


@pytest.mark.parametrize(
    'content', [b'', b'epoch 12\n' * 100, b'PK\x03\x04', b'{"a": 1}'], ids=['empty', 'text', 'zip head', 'json']
)
@pytest.mark.parametrize('trust', [False, True])
def test_file_that_is_no_checkpoint_is_refused(tmp_path, content, trust):
    file = tmp_path / 'it.pth'
    file.write_bytes(content)
    with pytest.raises(UnsafeCheckpointError) as caught:
        safe_load(file, trust=trust)
    message = str(caught.value)
    assert str(file) in message and 'damaged' in message and '\n' not in message
    assert ('--trust-checkpoint' in message) != trust


@FORMATS
def test_damaged_checkpoint_always_raises_the_same_error_type(trained, zipped):
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
@pytest.mark.parametrize(('name', 'what'), [('absent.pth', 'does not exist'), ('.', 'is a folder')])
def test_missing_checkpoint_is_named(tmp_path, name, what, trust):
    with pytest.raises(FileNotFoundError, match=rf'checkpoint .* {what}; give the path of a \.pth file'):
        safe_load(tmp_path / name, trust=trust)


def test_refused_type_is_named(tmp_path):
    torch.save({'meta': {'model': torch.nn.Linear(1, 1)}}, tmp_path / 'it.pth')
    with pytest.raises(UnsafeCheckpointError, match=r'it names torch\.nn\.modules\.linear\.Linear'):
        safe_load(tmp_path / 'it.pth')
    assert isinstance(safe_load(tmp_path / 'it.pth', trust=True)['meta']['model'], torch.nn.Linear)
