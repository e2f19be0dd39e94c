"""Arguments that the backbones of several stages share, and what two of them do."""

from collections.abc import Iterable, Sequence

from mmengine.model import BaseModule
from torch.nn.modules.batchnorm import _BatchNorm

from mmkerv.errors import ArgumentError
from mmkerv.ops.core.arguments import integer, real


def output_stages(out_indices: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Return the stages whose output is wanted, from 0.

    Args:
        out_indices: one or several stages, from -count to count - 1.
        count: number of stages.

    Raises:
        ValueError: for no stage, or one that does not exist.

    Example:
        >>> output_stages(-1, 4), output_stages([0, 2], 4)
        ((3,), (0, 2))
    """
    indices = tuple(out_indices) if isinstance(out_indices, Iterable) else (out_indices,)
    if not indices or any(not -count <= integer(index, 'out_indices', -count) < count for index in indices):
        raise ArgumentError(f'out_indices must be stages from 0 to {count - 1}, got {out_indices!r}')
    return tuple(index % count for index in indices)


def frozen_stages(value: int, count: int) -> int:
    """Return the number of stages that do not learn, -1 for none and not even what is before them.

    Raises:
        ValueError: if there are not so many.

    Example:
        >>> frozen_stages(1, 4)
        1
    """
    if integer(value, 'frozen_stages', -1) > count:
        raise ArgumentError(f'frozen_stages must be <= {count}, got {value}')
    return value


def drop_path_rates(largest: float, depths: Sequence[int]) -> list[float]:
    """Return the rate of stochastic depth of each block, which grows from 0 to ``largest``.

    Raises:
        ValueError: if ``largest`` is not in [0, 1).

    Example:
        >>> drop_path_rates(0.5, (1, 2))
        [0.0, 0.25, 0.5]
    """
    if real(largest, 'drop_path_rate', 0.0) >= 1:
        raise ArgumentError(f'drop_path_rate must be in [0, 1), got {largest}')
    blocks = sum(depths)
    return [largest * i / max(1, blocks - 1) for i in range(blocks)]


class StagedBackbone(BaseModule):
    """Base of backbones with the arguments ``frozen_stages`` and ``norm_eval``.

    A backbone sets ``norm_eval`` and implements ``_freeze``.

    Args:
        init_cfg: as in every mmengine module.

    Example:
        >>> from mmkerv.models.zoo.lsknet import LSKNet
        >>> net = LSKNet('tiny', norm_eval=True).train()
        >>> net.training, net.norm1.training, net.patch_embed1.norm.training
        (True, True, False)
    """

    norm_eval: bool

    def _freeze(self) -> None:
        """Set the stages that do not learn to evaluation mode, and exclude their parameters from the gradients."""
        raise NotImplementedError(f'{type(self).__name__} must implement _freeze')

    def train(self, mode: bool = True) -> 'StagedBackbone':
        """Set the mode; frozen stages, and with ``norm_eval`` all batch norms, stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
