"""Mixed precision without a GPU, which mmengine's ``AmpOptimWrapper`` refuses."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmkerv.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(OptimWrapper):
    """Train under bfloat16 autocast on the CPU. bfloat16 has the range of float32, so the loss needs no scale.

    ``--amp`` uses it on a machine without a GPU. It takes the arguments of mmengine's ``OptimWrapper``.

    On CPUs with bfloat16 instructions, torch (seen in 2.11) leaves parts of the weight gradient of a 3x3 convolution
    with stride 2 undefined when its input is a 1x1 map, which ends in NaN. In a RetinaNet, whose last level is such a
    convolution, images from 65 pixels on avoid it.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> wrapper = CpuAmpOptimWrapper(torch.optim.SGD(layer.parameters(), lr=0.1))
        >>> with wrapper.optim_context(layer):
        ...     layer(torch.ones(1, 2)).dtype
        torch.bfloat16
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Open autocast for the forward pass.

        Example:
            >>> layer = nn.Linear(2, 2)
            >>> with CpuAmpOptimWrapper(torch.optim.SGD(layer.parameters(), lr=0.1)).optim_context(layer):
            ...     torch.is_autocast_cpu_enabled()
            True
        """
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield
