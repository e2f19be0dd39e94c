"""Fold a trained checkpoint: operators become plain convolutions, and the two networks are compared."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmkerv.deploy.config import deploy_config
from mmkerv.engine.checkpoint.atomic_write import atomic_path, save_checkpoint
from mmkerv.engine.checkpoint.match import require_match, weights_of
from mmkerv.engine.checkpoint.safe_load import safe_load
from mmkerv.ops import DeployReport, switch_to_deploy
from mmkerv.ops.core.generated import GeneratedKernel

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp')


class FoldCheckError(RuntimeError):
    """The folded network does not compute what the network computed, or nothing could be folded.

    Example:
        >>> issubclass(FoldCheckError, RuntimeError)
        True
    """


class FoldResult(NamedTuple):
    """What folding did and how far the two networks are apart.

    Args:
        report: what was replaced and kept.
        error: largest difference of any output, relative to the largest magnitude of that output.
        associations: |K - W| / |W| of each folded operator that has a basic kernel W: 0 says that it had not moved from
            the identity.
        inputs: number of inputs compared.

    Example:
        >>> FoldResult(DeployReport(['conv1'], {}), 2e-7, [0.4], 1).error
        2e-07
    """

    report: DeployReport
    error: float
    associations: list[float]
    inputs: int


def build_model(cfg: Config, state_dict: dict[str, Tensor], source: str) -> nn.Module:
    """Build the model of a config in evaluation mode and load weights that fit it completely.

    Raises:
        CheckpointMismatchError: if they do not.

    Example:
        >>> build_model(cfg, safe_load('epoch_12.pth')['state_dict'], 'epoch_12.pth')  # doctest: +SKIP
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))
    state_dict = {key.removeprefix('module.'): value for key, value in state_dict.items()}
    require_match(model, state_dict, source)
    model.load_state_dict(state_dict)
    return model.eval()


def fold_checkpoint(
    cfg: Config,
    checkpoint: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    shape: tuple[int, int] | None = None,
    tolerance: float = 1e-4,
    trust: bool = False,
) -> FoldResult:
    """Fold a checkpoint, check it, and write ``out`` and, beside it, the deploy config ``out`` with suffix ``.py``.

    The folded network is built from the deploy config and loaded from the folded weights, so what is compared is what a
    user will run. Nothing is written unless the check passes.

    Args:
        cfg: config the checkpoint was trained with.
        checkpoint: checkpoint of that network.
        out: ``.pth`` file to write.
        images: folder; its images are compared too, preprocessed as the model does it.
        shape: height and width of the inputs; by default 224 x 224 for classifiers, 256 x 256 else.
        tolerance: largest relative difference of the raw outputs, in float32, that passes.
        trust: as :func:`mmkerv.engine.safe_load` has it.

    Raises:
        FoldCheckError: if nothing can be folded, or the outputs differ by more than ``tolerance``.
        CheckpointMismatchError: if the checkpoint is of another network.

    Example:
        >>> fold_checkpoint(Config.fromfile('coc.py'), 'epoch_12.pth', 'deploy.pth').error  # doctest: +SKIP
        2.1e-07
    """
    loaded = safe_load(checkpoint, trust=trust)
    state_dict = weights_of(loaded, str(checkpoint))
    model = build_model(cfg, state_dict, str(checkpoint)).float()
    associations = association_strength(model)
    folded = copy.deepcopy(model)
    report = switch_to_deploy(folded)
    if not report.replaced:
        raise FoldCheckError(f'{checkpoint}: the network has no operator that folds; {report}')
    kept = {type(folded.get_submodule(name)).__name__.removesuffix('2d') for name in report.kept}
    plain_cfg = deploy_config(cfg, tuple(kept))
    plain = build_model(plain_cfg, folded.state_dict(), f'{checkpoint} (folded)').float()
    shape = shape or ((224, 224) if cfg.get('default_scope') == 'mmpretrain' else (256, 256))
    error, count = 0.0, 0
    for inputs, samples in sample_inputs(model, shape, images):
        error = max(error, largest_difference(raw_outputs(model, inputs, samples), raw_outputs(plain, inputs, samples)))
        count += 1
    if not error <= tolerance:
        raise FoldCheckError(
            f'{checkpoint}: the folded network differs by {error:.2e} of the largest output, more than '
            f'{tolerance:.0e}; '
            'nothing was written. Please report this with the config'
        )
    meta = loaded.get('meta') if 'state_dict' in loaded else None
    meta = {k: v for k, v in meta.items() if k != 'cfg'} if isinstance(meta, dict) else {}
    meta['cfg'] = plain_cfg.pretty_text
    with atomic_path(Path(out).with_suffix('.py')) as config:
        config.write_text(plain_cfg.pretty_text)
        save_checkpoint({'meta': meta, 'state_dict': plain.state_dict()}, out)
    return FoldResult(report, error, associations, count)


@torch.no_grad()
def association_strength(model: nn.Module) -> list[float]:
    """Return |K - W| / |W| of every operator that has a basic kernel W, in the order of the modules.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> association_strength(nn.Sequential(CoCConv2d(4, 4, 3)))
        [0.0]
    """
    operators = [m for m in model.modules() if isinstance(m, GeneratedKernel) and m.weight is not None]
    return [float((op.kernel() - op.weight).norm() / op.weight.norm()) for op in operators]


@torch.no_grad()
def raw_outputs(model: nn.Module, inputs: Tensor, samples: list | None = None) -> list[Tensor]:
    """Return every tensor a model of the three libraries gives before post-processing, for inputs (N, C, H, W).

    The second stage of a two-stage detector gets fixed regions: the first stage sorts its own by score, so that a
    difference in the last digit would have other regions compared.

    Example:
        >>> raw_outputs(model, torch.rand(1, 3, 64, 64))  # doctest: +SKIP
    """
    if not (hasattr(model, 'roi_head') and hasattr(getattr(model, 'rpn_head', None), 'forward_single')):
        return list(tensors_of(model(inputs, samples, mode='tensor')))
    from mmengine.structures import InstanceData

    # numpy's: tracing, by which operations are counted, cannot record a generator of torch.
    corners = torch.from_numpy(np.random.default_rng(0).random((64, 2, 2), np.float32))
    corners = corners.to(inputs) * inputs.new_tensor(inputs.shape[:1:-1])
    regions = InstanceData(bboxes=torch.cat([corners.amin(1), corners.amax(1)], 1))
    features = model.extract_feat(inputs)
    second = model.roi_head.forward(features, [regions] * len(inputs), samples)
    return list(tensors_of([features, model.rpn_head(features), second]))


def largest_difference(first: list[Tensor], second: list[Tensor]) -> float:
    """Return the largest difference of two lists of tensors, each relative to the largest magnitude of the first.

    Differing numbers or shapes, and NaN, count as infinite.

    Example:
        >>> round(largest_difference([torch.tensor([1.0, 4.0])], [torch.tensor([1.0, 4.4])]), 3)
        0.1
    """
    if len(first) != len(second) or not first or any(a.shape != b.shape for a, b in zip(first, second)):
        return float('inf')
    worst = 0.0
    for a, b in zip(first, second):
        if a.numel():
            difference = float((a - b).abs().max() / a.abs().max().clamp_min(torch.finfo(a.dtype).tiny))
            worst = max(worst, difference) if difference == difference else float('inf')
    return worst


def tensors_of(outputs: Any) -> Iterator[Tensor]:
    """Yield the tensors of floating-point numbers in nested lists, tuples and dictionaries, in their order.

    Example:
        >>> [tensor.item() for tensor in tensors_of([torch.tensor(1.0), {'a': (torch.tensor(2.0), torch.tensor(3))}])]
        [1.0, 2.0]
    """
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            yield outputs
    elif isinstance(outputs, dict):
        for value in outputs.values():
            yield from tensors_of(value)
    elif isinstance(outputs, (list, tuple)):
        for value in outputs:
            yield from tensors_of(value)


def sample_inputs(
    model: nn.Module, shape: tuple[int, int], images: str | Path | None
) -> Iterator[tuple[Tensor, list | None]]:
    """Yield a random input, then the images of a folder, each with the samples a detector wants.

    Args:
        model: whose preprocessor the images pass.
        shape: height and width of the inputs.
        images: folder, or ``None``.

    Raises:
        FileNotFoundError: if the folder is not there or holds no image.

    Example:
        >>> inputs, _ = next(sample_inputs(nn.Sequential(nn.Conv2d(3, 8, 3)), (32, 48), None))
        >>> inputs.shape
        torch.Size([1, 3, 32, 48])
    """
    channels = next(m.in_channels for m in model.modules() if hasattr(m, 'in_channels') and hasattr(m, 'kernel_size'))
    generator = torch.Generator().manual_seed(0)
    yield torch.randn(1, channels, *shape, generator=generator), _samples(model, shape)
    if images is None:
        return
    if not Path(images).is_dir():
        raise FileNotFoundError(f'--images {str(images)!r} is not a folder; give a folder of images')
    import mmcv

    files = sorted(p for p in Path(images).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise FileNotFoundError(f'--images {str(images)!r} holds no image ({", ".join(IMAGE_SUFFIXES)})')
    for file in files:
        image = mmcv.imresize(mmcv.imread(file, channel_order='bgr'), shape[::-1])
        tensor = torch.from_numpy(image).permute(2, 0, 1)
        samples = _samples(model, shape)
        data = {'inputs': tensor[None] if samples is None else [tensor], 'data_samples': samples}
        data = model.data_preprocessor(data, False)
        yield data['inputs'], data['data_samples']


def _samples(model: nn.Module, shape: tuple[int, int]) -> list | None:
    if (
        not type(model).__module__.startswith('mmdet.')
        and not hasattr(model, 'bbox_head')
        and not hasattr(model, 'roi_head')
    ):
        return None
    from mmdet.structures import DetDataSample

    meta = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), shape)
    return [DetDataSample(metainfo={**meta, 'scale_factor': (1.0, 1.0)})]
