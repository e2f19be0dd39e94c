"""Processes of a run: several on CPUs, where mmengine's launchers ask for a GPU, and one alone, where SyncBN does."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict

from mmkerv.errors import ConfigError
from mmkerv.utils import log


@contextmanager
def process_group(cfg: Config) -> Iterator[None]:
    """Join the processes of the launcher by gloo where there is no GPU, and leave the group at the end.

    With a GPU, or without a launcher, mmengine does what is needed; SyncBN, which needs GPUs and a group of processes,
    becomes BN where there is none of them.

    Args:
        cfg: config with ``launcher``; its model wrapper is set where mmengine would ask for a GPU.

    Raises:
        ConfigError: for a launcher other than pytorch without a GPU.

    Example:
        >>> with process_group(Config(dict(launcher='none'))):
        ...     dist.is_initialized()
        False
    """
    if (cfg.launcher == 'none' or not torch.cuda.is_available()) and (count := revert_sync_bn(cfg.get('model'))):
        log(f'mmkerv: norm_cfg SyncBN -> BN in {count} places: SyncBN needs several processes with a GPU each')
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        if cfg.launcher != 'pytorch':
            raise ConfigError(
                f'--launcher {cfg.launcher} needs a GPU for each process and there is none; '
                'on CPUs use --launcher pytorch, as tools/dist_train.sh does'
            )
        dist.init_process_group('gloo')
        # The runner fills in the number of a GPU unless it finds device_ids.
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
        How many times.

    Example:
        >>> model = dict(backbone=dict(norm_cfg=dict(type='SyncBN', requires_grad=True)))
        >>> revert_sync_bn(model), model
        (1, {'backbone': {'norm_cfg': {'type': 'BN', 'requires_grad': True}}})
    """
    if isinstance(node, dict):
        found = node.get('type') == 'SyncBN'
        if found:
            node['type'] = 'BN'
        return found + sum(map(revert_sync_bn, node.values()))
    return sum(map(revert_sync_bn, node)) if isinstance(node, (list, tuple)) else 0
