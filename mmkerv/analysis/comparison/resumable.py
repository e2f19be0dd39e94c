"""Losses and checkpoints of a run that is compared: often enough for its length, and in its own folder."""

from mmengine.config import Config

from mmkerv.engine.config.schedule import length

# A run has at least so many logged losses, where its iterations are known.
LOGGED = 20
# And it can be resumed from at least so many places, if it has so many epochs or iterations.
CHECKPOINTS = 4


def resumable(cfg: Config) -> None:
    """Make a training write losses and checkpoints often enough for its length, in place.

    It keeps the last checkpoint only, with what a run needs to resume, and the last iterations of an epoch are logged
    too. Logs and checkpoints are written into the folder of the run: in a folder that the config names, all variants of
    a seed would share one, and resume from each other's checkpoints.

    Example:
        >>> cfg = Config(dict(train_cfg=dict(max_iters=40), default_hooks=dict(logger=dict(interval=50))))
        >>> resumable(cfg)
        >>> cfg.default_hooks.logger.interval
        2
    """
    total = length(cfg)
    hooks = cfg.setdefault('default_hooks', {})
    for name, kind in (('logger', 'LoggerHook'), ('checkpoint', 'CheckpointHook')):
        if hooks.get(name) is None:
            hooks[name] = {'type': kind}
    for hook in hooks.values():
        if hook is not None:
            hook.pop('out_dir', None)
    logger, checkpoint = hooks['logger'], hooks['checkpoint']
    for hook in (logger, checkpoint):
        # How to write into the folder that the config named.
        hook.pop('file_client_args', None)
        hook.pop('backend_args', None)
    logger['ignore_last'] = False
    # An iteration-based loop is always in epoch 0.
    logger['log_metric_by_epoch'] = total.unit == 'epoch'
    if total.unit == 'iteration':
        logger['interval'] = min(logger.get('interval', 10), max(1, total.number // LOGGED))
    checkpoint['by_epoch'] = total.unit == 'epoch'
    interval = checkpoint.get('interval', -1)
    most = max(1, total.number // CHECKPOINTS)
    checkpoint['interval'] = most if interval < 1 else min(interval, most)
    checkpoint['max_keep_ckpts'], checkpoint['save_last'] = 1, True
    checkpoint['save_optimizer'] = checkpoint['save_param_scheduler'] = True
    checkpoint.pop('save_begin', None)
