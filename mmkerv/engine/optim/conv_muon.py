"""ConvMuon: orthogonalised momentum (Muon) for convolutions, with AdamW or SGD for all other parameters."""

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmkerv.errors import ArgumentError
from mmkerv.ops.core.arguments import boolean, integer, one_of, real
from mmkerv.ops.core.precision import full_precision
from mmkerv.registry import OPTIMIZERS

# Coefficients of Jordan's iteration: the steepest slope at 0 for which every singular value ends near 1.
A, B, C = 3.4445, -4.7750, 2.0315
MUON = 'muon'
# Rules of the groups that are not orthogonalised, and torch's optimizer of each.
OTHERS = {'AdamW': torch.optim.AdamW, 'SGD': torch.optim.SGD}
SCALES = ('original', 'match_rms_adamw')
DTYPES = ('float32', 'bfloat16')


def newton_schulz(matrices: Tensor, steps: int = 5, eps: float = 1e-7) -> Tensor:
    r"""Move the singular values of matrices towards 1 and leave their singular vectors.

    .. math:: X_0 = M / |M|_F, \qquad X \leftarrow a X + (b A + c A^2) X, \quad A = X X^T

    with (a, b, c) = (3.4445, -4.7750, 2.0315); a matrix with more rows than columns is transposed meanwhile. The
    polynomial does not converge to 1: five steps bring singular values from 0.003 :math:`|M|_F` on to between 0.68 and
    1.21, and leave smaller ones smaller.

    Args:
        matrices: (N, R, C), each orthogonalised by itself, in their own type.
        steps: number of steps, >= 1.
        eps: least norm that a matrix is divided by, > 0; a matrix of zeros stays one.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.

    Example:
        >>> x = newton_schulz(torch.randn(1, 4, 16))
        >>> bool((torch.linalg.svdvals(x) - 1).abs().max() < 0.4)
        True
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x.mT if is_tall else x


def update_scale(rows: int, columns: int, adjust_lr_fn: str = 'original') -> float:
    r"""Return the factor of the update of a matrix by its shape.

    ``'original'`` is :math:`\sqrt{\max(1, R / C)}`. ``'match_rms_adamw'`` is :math:`0.2 \sqrt{\max(R, C)}`, with which
    an update is about as large as one of AdamW and takes its learning rates and weight decay.

    Args:
        rows: R, the filters of a channel group.
        columns: C, the taps of a filter.
        adjust_lr_fn: which factor.

    Example:
        >>> update_scale(256, 64), update_scale(64, 576)
        (2.0, 1.0)
    """
    if adjust_lr_fn == 'original':
        return math.sqrt(max(1, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))


def orthogonalised(
    update: Tensor,
    groups: int = 1,
    ns_steps: int = 5,
    eps: float = 1e-7,
    adjust_lr_fn: str = 'original',
    ns_dtype: str = 'float32',
) -> Tensor:
    """Return the update of a weight with orthogonal filters, times its factor.

    Args:
        update: (O, I, *size), or (O, I) of a linear layer. Each channel group is a matrix of O / groups rows, its
            filters, and I times the number of taps as columns.
        groups: channel groups of the convolution, a divisor of O.
        ns_steps: steps of :func:`newton_schulz`.
        eps: of :func:`newton_schulz`.
        adjust_lr_fn: of :func:`update_scale`.
        ns_dtype: type of the iteration, ``'float32'`` (``float64`` for a ``float64`` weight) or ``'bfloat16'``.

    Returns:
        Tensor of the shape and type of ``update``.

    Example:
        >>> u = orthogonalised(torch.randn(4, 8, 3, 3)).flatten(1)
        >>> bool((torch.linalg.svdvals(u) - 1).abs().max() < 0.4)
        True
    """
    matrices = update.reshape(groups, update.shape[0] // groups, -1)
    if ns_dtype == 'bfloat16':
        matrices = matrices.bfloat16()
    elif matrices.dtype != torch.float64:
        matrices = matrices.float()
    # A step inside autocast, as a closure may take it, would iterate in half precision.
    with full_precision(update.device):
        result = newton_schulz(matrices, ns_steps, eps)
    return (update_scale(*matrices.shape[1:], adjust_lr_fn) * result).reshape(update.shape).to(update.dtype)


@OPTIMIZERS.register_module()
class ConvMuon(Optimizer):
    r"""Orthogonalised momentum for the weights of convolutions and linear layers, and AdamW or SGD for the rest.

    For a weight W with gradient g, as a matrix of filters for each channel group:

    .. math::
        M \leftarrow \beta M + (1 - \beta) g, \qquad U = \beta M + (1 - \beta) g, \qquad
        W \leftarrow (1 - \eta\lambda) W - \eta\, s\, \mathrm{NS}(U)

    with NS of :func:`newton_schulz` and the factor s of :func:`update_scale`, both of the flattened shape. Without
    ``nesterov``, U is M.

    A group of parameters with ``rule='AdamW'`` or ``rule='SGD'`` is updated by torch's optimizer of that name, whose
    arguments its other entries are. :class:`ConvMuonConstructor` divides a network's parameters: norms, biases, stems,
    last layers and the operators' own parameters are no hidden weights, and do not belong to the rule ``'muon'``.

    ``torch.optim.Muon`` takes linear layers alone. The public code of the method's author computes s from the kernel's
    last two axes, which is 1 for every convolution.

    Each process needs whole weights with whole gradients: DistributedDataParallel, not FSDP.

    Args:
        params: parameters or groups of them. Keys of a group beside ``params`` replace the arguments below;
            ``rule`` is ``'muon'`` (default), ``'AdamW'`` or ``'SGD'``.
        lr: learning rate, >= 0.
        momentum: beta, in [0, 1).
        nesterov: whether the gradient is mixed in once more.
        weight_decay: lambda, >= 0; decoupled from the gradient.
        ns_steps: steps of the iteration, >= 1.
        adjust_lr_fn: factor s: ``'original'``, or ``'match_rms_adamw'``, which takes AdamW's learning rates.
        eps: least norm that an update is divided by, > 0.
        ns_dtype: type of the iteration: ``'float32'``, or ``'bfloat16'`` as ``torch.optim.Muon`` has it.
        groups: channel groups of the convolutions, >= 1; a divisor of their output channels.

    Raises:
        ValueError: for an argument out of range, an unknown rule, or a parameter without filters in a group of
            ``'muon'``: one with a single axis, or whose filters ``groups`` does not divide.
        TypeError: for an argument of the wrong type.
        RuntimeError: in a step, if a gradient is sparse.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; ``'match_rms_adamw'``: Liu
    et al., "Muon is scalable for LLM training", 2025.

    Example:
        >>> net = torch.nn.Conv2d(8, 8, 3)
        >>> optimizer = ConvMuon([dict(params=[net.weight]), dict(params=[net.bias], rule='AdamW', lr=1e-3)], lr=0.02)
        >>> net(torch.randn(1, 8, 4, 4)).sum().backward()
        >>> optimizer.step()
        >>> [(group['rule'], group['lr']) for group in optimizer.param_groups]
        [('muon', 0.02), ('AdamW', 0.001)]
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        ns_steps: int = 5,
        adjust_lr_fn: str = 'original',
        eps: float = 1e-7,
        ns_dtype: str = 'float32',
        groups: int = 1,
    ):
        defaults = dict(
            lr=lr,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
            eps=eps,
            ns_dtype=ns_dtype,
            groups=groups,
            rule=MUON,
        )
        _check_settings(defaults)
        self._others: dict[str, Optimizer] = {}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters.

        Example:
            >>> weight, bias = torch.nn.Linear(4, 4).parameters()
            >>> optimizer = ConvMuon([weight])
            >>> optimizer.add_param_group(dict(params=[bias], rule='SGD', lr=0.1, momentum=0.9))
            >>> optimizer.param_groups[1]['momentum']
            0.9
        """
        rule = one_of(param_group.get('rule', MUON), 'rule', (MUON, *OTHERS))
        if rule == MUON:
            super().add_param_group(param_group)
            group = self.param_groups[-1]
            try:
                _check_settings(group)
                for parameter in group['params']:
                    _check_filters(parameter, group['groups'])
            except (TypeError, ValueError):
                self.param_groups.pop()
                raise
            return
        settings = other_settings(rule, param_group)
        super().add_param_group({**param_group, **settings})
        group = self.param_groups[-1]
        for key in self.defaults.keys() - settings.keys() - {'rule'}:
            del group[key]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient.

        Args:
            closure: computes the loss again and returns it.

        Example:
            >>> net = torch.nn.Linear(4, 4, bias=False)
            >>> optimizer = ConvMuon(net.parameters(), lr=0.1)
            >>> net(torch.randn(2, 4)).sum().backward()
            >>> optimizer.step()
            >>> list(optimizer.state[net.weight])
            ['momentum_buffer']
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group['rule'] == MUON:
                for parameter in group['params']:
                    if parameter.grad is not None:
                        self._update(parameter, group)
        for rule in OTHERS:
            if groups := [group for group in self.param_groups if group['rule'] == rule]:
                self._torchs(rule, groups).step()
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        if gradient.is_sparse:
            raise RuntimeError('ConvMuon cannot orthogonalise a sparse gradient; give its parameter another rule')
        state = self.state[parameter]
        if 'momentum_buffer' not in state:
            state['momentum_buffer'] = torch.zeros_like(parameter)
        momentum = state['momentum_buffer']
        momentum.lerp_(gradient, 1 - group['momentum'])
        update = gradient.lerp(momentum, group['momentum']) if group['nesterov'] else momentum
        settings = {key: group[key] for key in ('groups', 'ns_steps', 'eps', 'adjust_lr_fn', 'ns_dtype')}
        parameter.mul_(1 - group['lr'] * group['weight_decay'])
        parameter.add_(orthogonalised(update, **settings), alpha=-group['lr'])

    def _torchs(self, rule: str, groups: list[dict[str, Any]]) -> Optimizer:
        """Return torch's optimizer of a rule over these groups, with the state in that of this optimizer."""
        if rule not in self._others:
            self._others[rule] = OTHERS[rule]([p for group in groups for p in group['params']], lr=0.0)
        optimizer = self._others[rule]
        # Groups are added, and replaced when a checkpoint is loaded.
        optimizer.param_groups, optimizer.state = groups, self.state
        return optimizer

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._others = {}
        for group in self.param_groups:
            if 'rule' not in group:
                raise ArgumentError(
                    'the optimizer state is not that of ConvMuon: its groups have no rule; start from the weights '
                    'alone (load_from without resume), or resume with the optimizer that wrote it'
                )
            if group['rule'] != MUON:
                # Another version of torch, whose optimizer has fewer settings, may have written them.
                for key, value in other_settings(group['rule'], group).items():
                    group.setdefault(key, value)


def other_settings(rule: str, group: dict[str, Any]) -> dict[str, Any]:
    """Return all settings of a group that torch's optimizer updates, with its defaults, if they are valid.

    Args:
        rule: name of the optimizer in :data:`OTHERS`.
        group: parameters and settings.

    Raises:
        ValueError: if there is no learning rate, or a value is refused by torch.

    Example:
        >>> other_settings('SGD', dict(params=[torch.zeros(1)], lr=0.1))['nesterov']
        False
    """
    if 'lr' not in group:
        raise ArgumentError(
            f"a group with rule={rule!r} must have a learning rate of its own, lr; that of rule='muon' would not fit"
        )
    known = inspect.signature(OTHERS[rule]).parameters.keys() - {'params'}
    settings = {key: value for key, value in group.items() if key in known}
    # Of these, torch 2.1 refuses parameters on the CPU.
    fused = {key: settings.pop(key) for key in ('fused',) if key in settings}
    return OTHERS[rule]([torch.zeros(1)], **settings).defaults | fused


def _check_settings(group: dict[str, Any]) -> None:
    real(group['lr'], 'lr', 0)
    real(group['weight_decay'], 'weight_decay', 0)
    if real(group['momentum'], 'momentum', 0) >= 1:
        raise ArgumentError(f'momentum must be in [0, 1), got {group["momentum"]!r}')
    boolean(group['nesterov'], 'nesterov')
    integer(group['ns_steps'], 'ns_steps', 1)
    integer(group['groups'], 'groups', 1)
    real(group['eps'], 'eps', 0, above=True)
    one_of(group['adjust_lr_fn'], 'adjust_lr_fn', SCALES)
    one_of(group['ns_dtype'], 'ns_dtype', DTYPES)


def _check_filters(parameter: Tensor, groups: int) -> None:
    shape = tuple(parameter.shape)
    if parameter.dim() < 2 or parameter.is_complex():
        raise ArgumentError(
            f'ConvMuon orthogonalises real weights of two axes or more, got a {parameter.dtype} parameter of shape '
            f"{shape}; put it into a group with rule='AdamW' or 'SGD', or let "
            "optim_wrapper.constructor='mmkerv.ConvMuonConstructor' divide the parameters"
        )
    if shape[0] % groups:
        raise ArgumentError(f'groups must divide the output channels, got groups={groups} and a weight of {shape}')
