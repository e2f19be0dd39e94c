"""``KernelVisualizationHook``: pictures of kernels and super kernels during training."""

from collections.abc import Sequence

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.core.arguments import boolean, integer
from mmkerv.registry import HOOKS
from mmkerv.utils import unwrapped


@HOOKS.register_module()
class KernelVisualizationHook(Hook):
    """Hook that passes pictures of the operators' kernels to the runner's visualizer, at the start and every n epochs.

    :func:`mmkerv.visualization.kernel_figure` draws each operator. The ``LocalVisBackend`` writes
    ``kernels.LAYER_EPOCH.png`` to ``vis_data/vis_image``; the ``TensorboardVisBackend`` shows the pictures with a
    slider over the epochs. The first process draws, in about a second for each picture, and the others wait for it; in
    a large network, name some layers.

    Args:
        interval: epochs between pictures, >= 1.
        target_layers: names of the layers, or of modules that contain operators; by default all operators.
        topk: number of filters (or association groups) to draw, those of the largest norm at the time; by default the
            first ones, so that all pictures show the same ones.
        by_epoch: ``False`` counts ``interval`` in iterations.

    Raises:
        ValueError: for an ``interval`` or ``topk`` < 1; at the start of training if there is nothing to draw, the model
            does not have a name, or ``by_epoch`` is true in a run without epochs.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.KernelVisualizationHook', interval=5, target_layers=['backbone.conv1'])]
        >>> vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    """

    # After hooks that change weights at the end of an epoch.
    priority = 'LOW'

    def __init__(
        self,
        interval: int = 1,
        target_layers: str | Sequence[str] | None = None,
        topk: int | None = None,
        by_epoch: bool = True,
    ):
        self.interval = integer(interval, 'interval', 1)
        self.target_layers = [target_layers] if isinstance(target_layers, str) else target_layers
        self.topk = None if topk is None else integer(topk, 'topk', 1)
        self.by_epoch = boolean(by_epoch, 'by_epoch')
        self._layers: dict[str, nn.Module] = {}

    def before_train(self, runner: Runner) -> None:
        """Find the layers and draw their initial kernels.

        Raises:
            ValueError: see the class.
        """
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ArgumentError(
                'KernelVisualizationHook counts epochs, and this run counts iterations (IterBasedTrainLoop); give '
                f'by_epoch=False and an interval in iterations, such as 1000, got interval={self.interval}'
            )
        from mmkerv.visualization.kernel_figures import kernel_layers

        model = unwrapped(runner.model)
        self._layers = kernel_layers(model, self.target_layers)
        self._draw(runner, runner.epoch if self.by_epoch else runner.iter)

    def after_train_epoch(self, runner: Runner) -> None:
        """Draw after every ``interval`` epochs."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._draw(runner, runner.epoch + 1)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Draw after every ``interval`` iterations."""
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._draw(runner, runner.iter + 1)

    @master_only
    def _draw(self, runner: Runner, step: int) -> None:
        # matplotlib is needed only when something is drawn, so it is not imported with the hook.
        from mmkerv.visualization.kernel_figures import kernel_figure
        from mmkerv.visualization.tiles import pixels

        for name, layer in self._layers.items():
            # A CKConv1d with kernel_size=None has no kernel before its first sequence.
            if layer.kernel_size is not None:
                runner.visualizer.add_image(f'kernels.{name}', pixels(kernel_figure(layer, name, self.topk)), step)
