"""Plain networks, what the converter makes of their weights, and how the two are compared."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmkerv.engine.checkpoint.convert_plain import convert_checkpoint, infer_config
from mmkerv.ops.core.base import ConvNd
from tests.engine.small_networks import classifier

COC = dict(type='CoCConv')


@torch.no_grad()
def shaken(model: nn.Module) -> nn.Module:
    """Give the norms random statistics; with their initial ones a norm in the place of another would go unnoticed."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            for tensor in (module.weight, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias, module.running_mean):
                tensor.normal_(std=0.1, generator=generator)
    return model.eval()


def plain(cfg: Config) -> nn.Module:
    """Build the network of a config without its operators."""
    cfg = copy.deepcopy(cfg)

    def strip(node):
        if isinstance(node, dict):
            for key in ('conv_cfg', 'where'):
                node.pop(key, None)
            for value in node.values():
                strip(value)
        elif isinstance(node, list):
            for value in node:
                strip(value)

    strip(cfg.model)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(2)
    model = shaken(revert_sync_batchnorm(MODELS.build(cfg.model)))
    assert not any(isinstance(module, ConvNd) for module in model.modules())
    return model


def converted(tmp_path, weights, cfg=None):
    """Convert; return the report, and the network with ``DST`` loaded strictly."""
    src, dst = tmp_path / 'src.pth', tmp_path / 'out' / 'dst.pth'
    torch.save(weights, src)
    match = convert_checkpoint(src, dst, copy.deepcopy(cfg))
    written = torch.load(dst, weights_only=True)
    assert list(written) == ['meta', 'state_dict'] and [p.name for p in dst.parent.iterdir()] == ['dst.pth']
    cfg = cfg or infer_config(weights.get('state_dict', weights), 'src.pth')
    init_default_scope(cfg.default_scope)
    network = revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))
    network.load_state_dict(written['state_dict'], strict=True)
    assert set(network.state_dict()) == set(written['state_dict']), 'whole, with the parameters of the operators'
    network.eval()
    return match, network


def assert_refused(tmp_path, weights, cfg, error, message):
    src, dst = tmp_path / 'src.pth', tmp_path / 'out' / 'dst.pth'
    torch.save(weights, src)
    with pytest.raises(error, match=message):
        convert_checkpoint(src, dst, cfg)
    assert not dst.parent.exists(), 'nothing was written'


@torch.no_grad()
def assert_same(ours, theirs, size=64):
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    actual, expected = ours(x), theirs(x)
    assert expected.std() > 1e-4
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def logits(network):
    return lambda x: network.head(network.extract_feat(x))


def small(classes=4, **changes) -> Config:
    cfg = classifier(stem_channels=8)
    # ConfigDict.update would merge the two operators' arguments.
    for name, value in {'conv_cfg': COC, 'where': dict(stages=(1, 2), stem=False), **changes}.items():
        cfg.model.backbone[name] = value
    cfg.model.head.num_classes = classes
    return cfg


def narrow(**changes):
    return plain(small(**changes)).state_dict()
