"""The white-box fast gradient sign method: x' = clip(x + eps * sign(dL/dx)).

Source: Goodfellow et al., Explaining and harnessing adversarial examples, ICLR 2015, equation in section 4.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# The paper's accuracy (%) of the convolutional network under attack, Table 1; it does not give eps.
PAPER_CNN = 71.92
MEAN, STD = 0.1307, 0.3081


def attacked_accuracy(model: nn.Module, images: Tensor, labels: Tensor, eps: float, scale: str = '01') -> float:
    """Percentage of images still classified right.

    Args:
        model: network that takes images of ``scale``, in evaluation mode.
        images: (N, 1, 28, 28), scaled.
        labels: (N,).
        eps: step, in units of pixels / 255.
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


def eps_of_the_paper(models: Sequence[nn.Module], images: Tensor, labels: Tensor, scale: str = '01') -> float:
    """Bisect for the eps at which the mean accuracy of the convolutional networks is the paper's."""
    low, high = 0.0, 0.5
    for _ in range(8):
        middle = (low + high) / 2
        mean = sum(attacked_accuracy(m, images, labels, middle, scale) for m in models) / len(models)
        low, high = (middle, high) if mean > PAPER_CNN else (low, middle)
    return (low + high) / 2
