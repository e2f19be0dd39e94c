"""Compare a trained network with its folded form: outputs, parameters, inference time."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from prettytable import PrettyTable
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from mmkerv.deploy.model_outputs import association_strength, largest_difference, raw_outputs, sample_inputs
from mmkerv.deploy.trained_model import build_model
from mmkerv.engine.checkpoint.layouts import weights_of
from mmkerv.engine.checkpoint.safe_load import safe_load
from mmkerv.engine.config.read import load_config
from mmkerv.image_files import find_images
from mmkerv.ops import frozen_kernels
from mmkerv.ops.core.generated import uncounted_evaluations


class Comparison(NamedTuple):
    """Measurements of :func:`compare`; pairs are (trained, folded).

    Args:
        difference: largest difference of the raw outputs over all inputs, relative to the largest output.
        parameters: numbers of parameters.
        milliseconds: median inference times of one image.
        associations: smallest and largest |K - W| / |W| of the trained operators.

    Example:
        >>> Comparison(2e-7, (11, 10), (9.0, 8.0), (0.2, 0.7)).parameters
        (11, 10)
    """

    difference: float
    parameters: tuple[int, int]
    milliseconds: tuple[float, float]
    associations: tuple[float, float]


def compare(
    config: str,
    checkpoint: str | Path,
    folded: str | Path,
    images: str | Path,
    shape: tuple[int, int],
    options: dict[str, Any] | None = None,
) -> Comparison:
    """Compare a trained network with the folded one, in evaluation mode, on a folder of images.

    Args:
        config: config of the trained network; that of the folded one is the file ``folded`` with suffix ``.py``.
        checkpoint: trained weights.
        folded: folded weights.
        images: folder of images, or an image file.
        shape: height and width of the inputs.
        options: as ``--cfg-options``, for the trained network's config.

    Raises:
        CheckpointMismatchError: if weights do not fit their network.

    Example:
        >>> files = 'trained.pth', 'deploy.pth', 'data/val2017'
        >>> compare('coc.py', *files, shape=(160, 160)).difference  # doctest: +SKIP
        2.1e-07
    """
    pairs = ((load_config(config, options), checkpoint), (load_config(str(Path(folded).with_suffix('.py'))), folded))
    trained, plain = (build_model(cfg, weights_of(safe_load(file), str(file)), str(file)) for cfg, file in pairs)
    difference = 0.0
    with frozen_kernels(trained), frozen_kernels(plain):
        for inputs, samples in sample_inputs(trained, shape, find_images([images])):
            outputs = (raw_outputs(model, inputs, samples) for model in (trained, plain))
            difference = max(difference, largest_difference(*outputs))
    times = inference_times((trained, plain), inputs, samples)
    strengths = association_strength(trained)
    return Comparison(difference, (count(trained), count(plain)), times, (min(strengths), max(strengths)))


def inference_times(
    models: Sequence[nn.Module], inputs: Tensor, samples: list | None = None, rounds: int = 7
) -> tuple[float, ...]:
    """Measure the median milliseconds of one forward pass of each model, without post-processing.

    The models take turns, so that a machine that slows down slows all of them. Outside ``frozen_kernels`` each pass
    computes the kernels; no warning is given of that, because it is what is measured.

    Args:
        models: models of the three libraries, in evaluation mode.
        inputs: (N, C, H, W), as the models' preprocessor returns them.
        samples: data samples that belong to them.
        rounds: number of turns.

    Example:
        >>> inference_times([trained, folded], torch.rand(1, 3, 160, 160))  # doctest: +SKIP
        (129.8, 45.3)
    """
    timers = [
        Timer(
            'run(model, x, samples)',
            globals={'run': raw_outputs, 'model': model, 'x': inputs, 'samples': samples},
            num_threads=torch.get_num_threads(),
        )
        for model in models
    ]
    with uncounted_evaluations(*models):
        times = list(zip(*([timer.timeit(3).median for timer in timers] for _ in range(rounds))))
    return tuple(1e3 * median(t) for t in times)


def count(model: nn.Module) -> int:
    """Count the parameters of a model.

    Example:
        >>> count(nn.Linear(3, 2))
        8
    """
    return sum(p.numel() for p in model.parameters())


def table(before: dict[str, float], after: dict[str, float], comparison: Comparison, shape: tuple[int, int]) -> str:
    """Format the metrics and the comparison as a table.

    Args:
        before: metrics of the trained network, as mmengine's test returns them.
        after: metrics of the folded one.
        comparison: result of :func:`compare`.
        shape: height and width that it was measured with.

    Example:
        >>> metrics = {'coco/bbox_mAP': 0.5, 'coco/bbox_mAP_50': 0.7}
        >>> comparison = Comparison(2e-7, (11, 10), (9.0, 8.0), (0.2, 0.7))
        >>> print(table(metrics, metrics, comparison, (160, 160)).splitlines()[3])
        | box mAP             |  0.5000 | 0.5000 |
    """
    result = PrettyTable(['', 'trained', 'folded'], align='r')
    result.align[''] = 'l'
    for key, label in (
        ('coco/bbox_mAP', 'box mAP'),
        ('coco/bbox_mAP_50', 'box mAP_50'),
        ('coco/bbox_mAP_75', 'box mAP_75'),
    ):
        if key in before:
            result.add_row([label, f'{before[key]:.4f}', f'{after[key]:.4f}'])
    result.add_row(['parameters', *(f'{n:,}' for n in comparison.parameters)])
    result.add_row(['inference, ms/image', *(f'{t:.1f}' for t in comparison.milliseconds)])
    low, high = comparison.associations
    notes = (
        f'largest difference of the raw outputs, relative: {comparison.difference:.1e}',
        f'|K - W| / |W| of the trained operators: {low:.3g} to {high:.3g} (0 is a plain convolution)',
        f'torch {torch.__version__}, {torch.get_num_threads()} threads, one {shape[0]} x {shape[1]} image, medians',
        'the trained network computes its kernels at every call, which mmkerv.ops.frozen_kernels avoids',
    )
    return '\n'.join([str(result), *notes])
