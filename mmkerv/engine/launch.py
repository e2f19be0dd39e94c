"""Several processes on CPUs: mmengine's launchers take it for granted that there is a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict

from mmkerv.engine.configuration import ConfigError


@contextmanager
def process_group(cfg: Config) -> Iterator[None]:
    """Join the processes of the launcher by gloo where there is no GPU, and leave the group at the end.

    With a GPU, or without a launcher, mmengine does what is needed.

    Args:
        cfg: config with ``launcher``; its model wrapper is set where mmengine would ask for a GPU.

    Raises:
        ConfigError: for a launcher other than pytorch without a GPU.

    Example:
        >>> with process_group(Config(dict(launcher='none'))):
        ...     dist.is_initialized()
        False
    """
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
