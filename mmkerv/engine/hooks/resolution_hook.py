"""Hook that tests a network of continuous kernels at a resolution other than that of training."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkerv.ops import set_resolution
from mmkerv.registry import HOOKS
from mmkerv.utils import log, unwrapped


@HOOKS.register_module()
class ResolutionHook(Hook):
    """Sample continuous kernels at another resolution during a test.

    The pipeline must give data of that resolution, by ``mmkerv.SubSample`` or ``Resize`` for example. See
    :func:`mmkerv.ops.set_resolution`.

    Args:
        ratio: samples (pixels) in the test for each one in training; one number, or one for each axis.

    Raises:
        ValueError: at the start of a test, if the model has no continuous kernel or the ratio leaves one no sample.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.ResolutionHook', ratio=0.5)]
    """

    def __init__(self, ratio: float | tuple[float, ...]):
        self.ratio = ratio

    def before_test(self, runner: Runner) -> None:
        """Set the resolution."""
        names = set_resolution(unwrapped(runner.model), self.ratio)
        log(f'mmkerv: {len(names)} continuous kernels are sampled at resolution {self.ratio}')

    def after_test(self, runner: Runner) -> None:
        """Set it back."""
        set_resolution(unwrapped(runner.model), 1)
