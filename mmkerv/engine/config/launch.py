"""Processes of a run: process groups on CPUs, for which mmengine's launchers ask for a GPU, and SyncBN without GPUs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict

from mmkerv.errors import ConfigError
from mmkerv.registry import local_name
from mmkerv.utils import log


@contextmanager
def process_group(cfg: Config) -> Iterator[None]:
    """Join the processes of the launcher with gloo on a machine without a GPU, and leave the group at the end.

    With a GPU, or without a launcher, mmengine does what is needed. SyncBN needs several processes with a GPU each, and
    becomes BN without them.

    Args:
        cfg: config with ``launcher``; gets a model wrapper for CPUs.

    Raises:
        ConfigError: for a launcher other than pytorch without a GPU.

    Example:
        >>> with process_group(Config(dict(launcher='none'))):
        ...     dist.is_initialized()
        False
    """
    alone = cfg.launcher == 'none' or not torch.cuda.is_available()
    if alone and (count := revert_sync_bn(cfg.get('model'))):
        log(f'mmkerv: norm_cfg SyncBN -> BN in {count} places: SyncBN needs several processes with a GPU each')
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        if cfg.launcher != 'pytorch':
            raise ConfigError(
                f'--launcher {cfg.launcher} needs a GPU for each process and there is none; '
                'on CPUs use --launcher pytorch, as tools/dist_train.sh does'
            )
        dist.init_process_group('gloo')
        # Without device_ids the runner would fill in the number of a GPU.
        wrapper = {'type': 'MMDistributedDataParallel', 'device_ids': None, 'broadcast_buffers': False}
        unused = cfg.get('find_unused_parameters', False)
        cfg.setdefault('model_wrapper_cfg', ConfigDict(**wrapper, find_unused_parameters=unused))
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def revert_sync_bn(node: Any) -> int:
    """Replace SyncBN by BN in a part of a config, in place; both have the same parameters.

    Returns:
        The number of replacements.

    Example:
        >>> model = dict(backbone=dict(norm_cfg=dict(type='SyncBN', requires_grad=True)))
        >>> revert_sync_bn(model), model
        (1, {'backbone': {'norm_cfg': {'type': 'BN', 'requires_grad': True}}})
    """
    if isinstance(node, dict):
        is_sync = local_name(node.get('type'), ('', 'torch')) in ('SyncBN', 'SyncBatchNorm')
        if is_sync:
            node['type'] = 'BN'
        return is_sync + sum(map(revert_sync_bn, node.values()))
    return sum(map(revert_sync_bn, node)) if isinstance(node, (list, tuple)) else 0
