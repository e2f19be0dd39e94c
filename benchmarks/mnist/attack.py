"""The white-box fast gradient sign method: x' = clip(x + eps * sign(dL/dx)).

Source: Goodfellow et al., Explaining and harnessing adversarial examples, ICLR 2015, equation in section 4.
"""

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# The paper's accuracy (%) of the convolutional network under attack, Table 1; it does not give eps.
PAPER_CNN = 71.92
# Steps of the attacks on each network of Table 1; accuracy is interpolated between them.
EPS = (0.0, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2)
MEAN, STD = 0.1307, 0.3081


def attacked_accuracy(model: nn.Module, images: Tensor, labels: Tensor, eps: float, scale: str = '01') -> float:
    """Return the percentage of attacked images that are classified correctly.

    Args:
        model: network for images of ``scale``, in evaluation mode.
        images: (N, 1, 28, 28), scaled.
        labels: (N,).
        eps: step, as a fraction of the range of pixels.
        scale: ``'01'`` or ``'std'``.
    """
    low, high = (0.0, 1.0) if scale == '01' else (-MEAN / STD, (1 - MEAN) / STD)
    step = eps if scale == '01' else eps / STD
    right = 0
    for x, y in zip(images.split(500), labels.split(500)):
        x = x.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(x, mode='tensor'), y)
        (grad,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            attacked = (x + step * grad.sign()).clamp(low, high)
            right += int((model(attacked, mode='tensor').argmax(1) == y).sum())
    return 100 * right / len(labels)


def eps_of_the_paper(curves: Sequence[Sequence[float]]) -> float:
    """Interpolate the eps at which the mean accuracy of the convolutional networks is the paper's.

    Args:
        curves: accuracies at ``EPS`` for each network.

    Raises:
        ValueError: if the accuracy is not reached within ``EPS``.
    """
    mean = [statistics.fmean(values) for values in zip(*curves)]
    for low, high, above, below in zip(EPS, EPS[1:], mean, mean[1:]):
        if above >= PAPER_CNN > below:
            return low + (high - low) * (above - PAPER_CNN) / (above - below)
    raise ValueError(f'the networks do not pass {PAPER_CNN} % within eps {EPS}, they have {mean}; extend EPS')


def interpolated(curve: Sequence[float], eps: float) -> float:
    """Return the accuracy at ``eps`` of a network with the accuracies ``curve`` at ``EPS``."""
    for low, high, first, second in zip(EPS, EPS[1:], curve, curve[1:]):
        if low <= eps <= high:
            return first + (second - first) * (eps - low) / (high - low)
    raise ValueError(f'eps must lie in {EPS}, got {eps}')
