import pytest
import torch
from torch import nn

from mmkerv.deploy.trained_model import build_model
from mmkerv.engine import apply_patches, require_finite, require_match, require_pretrained
from mmkerv.engine.checkpoint.publish import strip_checkpoint
from mmkerv.errors import NonFiniteWeightsError
from tests.engine.tiny_runner import TinyModel, tiny_runner

NAN, INF = float('nan'), float('inf')


def spoiled(value: float, key: str = 'norm.weight') -> dict:
    state = TinyModel().state_dict()
    state[key] = state[key].clone()
    state[key].view(-1)[-1] = value
    return state


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16, torch.double, torch.complex64, torch.float8_e5m2])
@pytest.mark.parametrize('value', [NAN, INF, -INF])
def test_tensor_that_is_not_finite_is_named(dtype, value):
    if dtype == torch.float8_e5m2 and not hasattr(torch, 'float8_e5m2'):
        pytest.skip('torch before 2.1 has no float8')
    bad = torch.tensor([0.0, value, 1.0]).to(dtype)
    found = 'NaN' if value != value or (dtype == torch.complex64 and torch.isnan(bad).any()) else 'infinite numbers'
    with pytest.raises(NonFiniteWeightsError, match=rf"'a\.pth' holds {found} in b, the first of 2 such.*earlier"):
        require_finite({'a': torch.zeros(2).to(dtype), 'b': bad, 'c': bad.clone()}, 'a.pth')
    require_finite({'a': torch.zeros(2).to(dtype), 'n': torch.tensor(3), 'e': torch.empty(0), 'x': None}, 'a.pth')


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        (lambda: torch.empty(3, device='meta'), r'without data'),
        (lambda: torch.eye(3).to_sparse(), r'sparse'),
        (lambda: torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.quint8), r'quantised'),
        (lambda: torch.rand(1).expand(2**24, 2**20), r'claims 17592186044416 numbers, and 1 are stored'),
        (lambda: torch.rand(2**12).as_strided((2**11,) * 4, (1, 0, 1, 0)), r'claims 17592186044416 numbers'),
        (lambda: torch.zeros(3, dtype=torch.int8), r'of type int8, and the network computes with floating point'),
        (lambda: torch.zeros(3, dtype=torch.complex64), r'of type complex64'),
    ],
)
def test_tensors_that_are_not_plain_numbers_are_refused(value, message):
    with pytest.raises(NonFiniteWeightsError, match=rf"checkpoint 'a\.pth': w .*{message}.*Give a checkpoint"):
        require_finite({'w': value()}, 'a.pth', {'w': torch.zeros(3)})


def test_infinite_mask_of_the_network_is_accepted():
    mask = torch.full((2,), -INF)
    require_finite({'mask': mask}, 'a.pth', {'mask': mask})
    require_finite({'repeated': torch.zeros(1).expand(1000)}, 'a.pth')
    with pytest.raises(NonFiniteWeightsError):
        require_finite({'mask': mask}, 'a.pth', {'mask': torch.zeros(2)})


@pytest.mark.parametrize('value', [NAN, INF])
@pytest.mark.parametrize('key', ['conv.super_layers.0.weight', 'norm.running_var'])
def test_every_reader_of_weights_refuses_nan(value, key):
    state = spoiled(value, key)
    for read in (
        lambda: require_match(TinyModel(), state, 'a.pth'),
        lambda: require_pretrained(TinyModel(), state, 'a.pth'),
        lambda: strip_checkpoint({'meta': {}, 'state_dict': state}, source='a.pth'),
    ):
        with pytest.raises(NonFiniteWeightsError, match=rf"checkpoint 'a\.pth' holds .* in {key}"):
            read()


@pytest.mark.parametrize(('resume', 'strict'), [(True, True), (False, False)], ids=['resume', 'load_from'])
def test_runner_refuses_nan(tmp_path, resume, strict):
    checkpoint = {'meta': {'epoch': 0, 'iter': 0}, 'message_hub': {}, 'state_dict': spoiled(NAN)}
    torch.save(checkpoint, tmp_path / 'it.pth')
    apply_patches()
    hook = {'type': 'mmkerv.CheckpointMatchHook', 'strict': strict}
    runner = tiny_runner(tmp_path, load_from=str(tmp_path / 'it.pth'), resume=resume, custom_hooks=[hook])
    with pytest.raises(NonFiniteWeightsError, match=r'it\.pth.* holds NaN in norm\.weight'):
        runner.train()


def test_models_for_folding_and_pictures_refuse_nan():
    from mmengine.config import Config
    from mmengine.registry import MODELS

    MODELS.register_module(name='TinyOfTheTest', module=TinyModel, force=True)
    with pytest.raises(NonFiniteWeightsError, match=r'holds NaN in norm\.weight'):
        build_model(Config({'model': {'type': 'TinyOfTheTest'}}), spoiled(NAN), 'a.pth')


def test_numpy_arrays_are_refused():
    state = {name: value.numpy() for name, value in nn.Linear(2, 2).state_dict().items()}
    with pytest.raises(RuntimeError, match='2 of another shape'):
        require_match(nn.Linear(2, 2), state, 'a.pth')
