import pytest

pytest.importorskip('mmengine')

from mmengine.config import Config

from mmkerv.engine.config.launch import process_group


def test_sync_bn_becomes_bn_in_one_process():
    """In backbone, heads and lists of heads; the other settings of the norm stay."""
    norm = dict(type='SyncBN', requires_grad=True, eps=0.01)
    model = dict(backbone=dict(norm_cfg=norm), auxiliary_head=[dict(norm_cfg=norm), dict(norm_cfg=dict(type='GN'))])
    cfg = Config(dict(launcher='none', model=model))
    with process_group(cfg):
        pass
    assert cfg.model.backbone.norm_cfg == dict(type='BN', requires_grad=True, eps=0.01)
    assert [head.norm_cfg.type for head in cfg.model.auxiliary_head] == ['BN', 'GN']
