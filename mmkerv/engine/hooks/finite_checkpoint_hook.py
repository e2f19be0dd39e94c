"""Hook that keeps the checkpoint of a diverged network from replacing a finite one."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkerv.engine.checkpoint.finite import not_finite
from mmkerv.errors import DivergedError
from mmkerv.registry import HOOKS
from mmkerv.utils import unwrapped


@HOOKS.register_module()
class FiniteCheckpointHook(Hook):
    """Stop a run, instead of writing a checkpoint, when its network holds NaN or infinite numbers.

    They come from one step whose gradient was not finite, often with a finite loss; training on from there is useless,
    and ``--resume`` goes on from the last finite checkpoint. Tensors that were not finite before training, such as a
    mask of -inf, are exempt.

    Raises:
        DivergedError: in training, before anything is written or removed.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.FiniteCheckpointHook')]
    """

    # After the hooks that change the checkpoint, such as EMAHook.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._exempt: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Note the tensors that are not finite before training."""
        self._exempt = set(not_finite(unwrapped(runner.model).state_dict()))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the weights that are about to be written."""
        # EMAHook puts its averages into `state_dict`, and the trained weights, from which a run is resumed, into
        # `ema_state_dict`.
        trained = {name.removeprefix('module.'): v for name, v in checkpoint.get('ema_state_dict', {}).items()}
        found = dict.fromkeys([*not_finite(checkpoint['state_dict']), *not_finite(trained)])
        bad = [name for name in found if name not in self._exempt]
        if bad:
            rest = f', the first of {len(bad)} such tensors' if len(bad) > 1 else ''
            raise DivergedError(
                f'FiniteCheckpointHook: the network holds NaN or infinite numbers in {bad[0]}{rest}: training has '
                'diverged. Nothing is written, and earlier checkpoints are kept. Lower optim_wrapper.optimizer.lr, or '
                'clip the gradients (optim_wrapper.clip_grad), and go on with --resume; '
                'custom_hooks=[dict(type="mmkerv.LossGuardHook")] tells where it begins'
            )
