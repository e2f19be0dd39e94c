"""Conversion of the CKConv authors' checkpoints: names, weight normalisation, kernels and logits."""

import gzip
import struct

import numpy as np
import pytest
import torch

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')

from mmkerv.engine.checkpoint.convert_ckconv import convert_ckconv
from mmkerv.engine.checkpoint.match import require_match
from mmkerv.errors import CheckpointMismatchError
from mmkerv.models.zoo.ckcnn import CKCNN

# Measured with the authors' code: test accuracy 99.31 %, and the logits of the first test images.
LOGITS = [
    [-14.947515, -5.094248, -5.46631, -2.562881, -5.995591, -11.396935, -25.894217, 10.478033, -12.326187, -2.885357],
    [-6.748374, 2.458552, 13.55726, -5.150492, -18.583422, -16.85914, -8.853862, -5.158662, -15.530897, -23.241669],
    [-12.776762, 11.084203, -8.349028, -13.068491, -2.576292, -12.507712, -0.601848, -7.709834, -7.468644, -17.271587],
]


@pytest.fixture
def published(data_root):
    return torch.load(
        data_root / 'ckconv_official' / 'mnist_perm_False_ckcnn_30.pt', weights_only=True, map_location='cpu'
    )


def test_every_parameter_is_mapped(published):
    converted, names = convert_ckconv(published)
    net = CKCNN(1, 30, kernel_size=784)
    expected = {f'backbone.{k}': v.shape for k, v in net.state_dict().items()}
    expected |= {'head.fc.weight': (10, 30), 'head.fc.bias': (10,)}
    assert {k: v.shape for k, v in converted.items()} == expected
    assert set(names) == set(published) and set(names.values()) == set(converted)


def test_weight_normalisation_is_resolved(published):
    layer = 'backbone.1.cconv2.Kernel.kernel_net.4.'
    g, v = published[layer + 'weight_g'], published[layer + 'weight_v']
    expected = torch.stack([g[row, 0, 0] * v[row, :, 0] / v[row, :, 0].norm() for row in range(len(v))])
    actual = convert_ckconv(published)[0]['backbone.blocks.1.conv2.kernel_net.layers.1.weight']
    assert torch.allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize(
    'options', [{}, {'method': 'fft'}, {'weight_norm': True, 'init': 'official'}], ids=['auto', 'fft', 'official']
)
def test_converted_network_reproduces_the_authors_logits(published, data_root, options):
    converted, _ = convert_ckconv(published)
    net = CKCNN(1, 30, omega_0=31.09195739463897, kernel_size=784, **options).eval()
    weights = {k.removeprefix('backbone.'): v for k, v in converted.items() if k.startswith('backbone.')}
    assert len(require_match(net, weights, 'a.pth').loaded) == len(net.state_dict())
    net.load_state_dict(weights)
    with gzip.open(data_root / 'mnist' / 't10k-images-idx3-ubyte.gz') as file:
        assert struct.unpack('>IIII', file.read(16))[1:] == (10000, 28, 28)
        images = np.frombuffer(file.read(3 * 784), np.uint8).reshape(3, 1, 784).astype(np.float32)
    x = (torch.from_numpy(images) / 255 - 0.1307) / 0.3081
    with torch.no_grad():
        logits = net(x)[0] @ converted['head.fc.weight'].T + converted['head.fc.bias']
    assert (logits - torch.tensor(LOGITS)).abs().max() < 1e-3


def test_unknown_parameter_is_named(published):
    published['backbone.0.gate.weight'] = torch.zeros(1)
    with pytest.raises(CheckpointMismatchError, match=r'1 parameters have no place.*backbone\.0\.gate\.weight'):
        convert_ckconv(published)


def test_incomplete_weight_normalisation_is_refused(published):
    del published['backbone.0.cconv1.Kernel.kernel_net.0.weight_g']
    with pytest.raises(CheckpointMismatchError, match='weight_g'):
        convert_ckconv(published)


def test_checkpoint_of_another_network_is_refused():
    with pytest.raises(CheckpointMismatchError, match='CKCNN'):
        convert_ckconv({})
    with pytest.raises(CheckpointMismatchError, match='conv1'):
        convert_ckconv({'conv1.weight': torch.zeros(1)})
