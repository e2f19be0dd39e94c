"""Names, state-dict keys and checkpoints from before the package was divided into folders."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmpretrain')
from mmengine.registry import MODELS as MMENGINE_MODELS

import mmkerv.registry as registry
from mmkerv import ops
from mmkerv.deploy import load_trained

BEFORE = Path(__file__).resolve().parent / 'before_redesign'
NAMES = json.loads((BEFORE / 'names.json').read_text())
FOLDED = json.loads((BEFORE / 'folded.json').read_text())


@pytest.mark.parametrize('name', NAMES['registered'])
def test_registered_names_are_kept(name):
    modules = getattr(registry, name)
    modules.import_from_location()
    assert not set(NAMES['registered'][name]) - set(modules.module_dict)


def test_names_in_the_root_registry_are_kept():
    assert not set(NAMES['root']) - set(MMENGINE_MODELS.module_dict)


def test_names_of_ops_are_kept():
    assert not set(NAMES['ops']) - set(ops.__all__)
    assert all(hasattr(ops, name) for name in NAMES['ops'])


@pytest.mark.parametrize('case', NAMES['operators'], ids=lambda case: f'{case["operator"]}-{case["kwargs"]}')
def test_state_dict_keys_of_operators_are_kept(case):
    operator = getattr(ops, case['operator'])(*case['args'], **case['kwargs'])
    assert {key: list(value.shape) for key, value in operator.state_dict().items()} == case['state_dict']


@pytest.mark.parametrize('case', NAMES['networks'], ids=lambda case: case['config']['type'])
def test_state_dict_keys_of_networks_are_kept(case):
    keys = list(MMENGINE_MODELS.build(dict(case['config'])).state_dict())
    assert len(keys) == case['number']
    assert hashlib.sha256('\n'.join(keys).encode()).hexdigest() == case['sha256']


def trained(name, folder, config=None):
    checkpoint = folder / f'{name}.pth'
    checkpoint.write_bytes(gzip.decompress((BEFORE / f'{name}.pth.gz').read_bytes()))
    return load_trained(str(config or BEFORE / f'{name}.py'), str(checkpoint))[1]


@pytest.mark.parametrize('name', ['coc', 'ck'])
def test_an_older_checkpoint_loads_and_folds_to_the_same_weights(name, tmp_path):
    model, expected = trained(name, tmp_path), FOLDED[name]
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = model(x, mode='tensor').flatten()
    torch.testing.assert_close(outputs, torch.tensor(expected['outputs']), rtol=1e-4, atol=1e-5)
    assert ops.switch_to_deploy(model).replaced == expected['replaced']
    weights = {key: value for key, value in model.state_dict().items() if value.dim() == 4}
    assert list(weights) == list(expected['weights'])
    for key, (shape, norm, first) in expected['weights'].items():
        assert list(weights[key].shape) == shape
        # Other processors round in another order.
        assert float(weights[key].double().norm()) == pytest.approx(norm, rel=1e-6), key
        torch.testing.assert_close(weights[key].flatten()[:4], torch.tensor(first), rtol=1e-5, atol=1e-7)


def test_a_checkpoint_with_super_biases_names_the_option(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text((BEFORE / 'coc.py').read_text().replace(', super_bias=True', ''))
    with pytest.raises(Exception, match='super_bias=True') as raised:
        trained('coc', tmp_path, config)
    from mmkerv.errors import UserError

    assert isinstance(raised.value, UserError)
