"""Fold a trained checkpoint into plain convolutions, and check the folded network against the trained one."""

import copy
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from torch import nn

from mmkerv.deploy.compared_outputs import computable
from mmkerv.deploy.config import deploy_config
from mmkerv.deploy.image_size import pipeline_shape
from mmkerv.deploy.model_outputs import association_strength, largest_difference, sample_inputs
from mmkerv.deploy.trained_model import build_model, built
from mmkerv.deploy.upstream_step import merge_branches, merges_always, merges_branches
from mmkerv.engine.checkpoint.atomic_write import atomic_path, save_checkpoint
from mmkerv.engine.checkpoint.layouts import weights_of
from mmkerv.engine.checkpoint.safe_load import safe_load
from mmkerv.engine.scope import library_of
from mmkerv.errors import ConfigError, FoldCheckError
from mmkerv.image_files import MOST, find_images, spread
from mmkerv.operator_table import operator_name, own_operators
from mmkerv.ops import DeployReport, frozen_kernels, switch_to_deploy
from mmkerv.ops.core.adapter import adapted_layers
from mmkerv.utils import log

# Default height and width of the inputs on which the networks are compared.
CLASSIFIER_SHAPE, OTHER_SHAPE = (224, 224), (256, 256)


class FoldResult(NamedTuple):
    """Result of folding a checkpoint.

    Args:
        report: what was replaced and kept.
        error: largest difference of any output, relative to the largest magnitude of that output.
        associations: |K - W| / |W| of each operator that has a basic kernel W; 0 means that the operator is
            still the identity.
        inputs: number of inputs on which the networks were compared: a random one, and the images.
        compared: what was compared, see ``mmkerv.deploy.compared_outputs.KINDS``.
        dearer: names of the folded operators that cost less before, with the multiplications for one position of the
            output, of all channels, before and after.

    Example:
        >>> FoldResult(DeployReport(['conv1'], {}), 2e-7, [0.4], 1, 'raw outputs').error
        2e-07
    """

    report: DeployReport
    error: float
    associations: list[float]
    inputs: int
    compared: str
    dearer: dict[str, tuple[int, int]] = {}


def fold_checkpoint(
    cfg: Config,
    checkpoint: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    most: int = MOST,
    shape: tuple[int, int] | None = None,
    tolerance: float = 1e-4,
    trust: bool = False,
    upstream_deploy: bool = False,
    split: str = 'keep',
) -> FoldResult:
    """Fold a checkpoint, check the result, and write it as ``out`` with its deploy config, ``out`` with suffix ``.py``.

    The check builds the folded network from the deploy config and the folded weights, as a user will, and compares the
    raw outputs of both networks, or what comes next in ``mmkerv.deploy.compared_outputs.KINDS``. Nothing is written
    unless it passes.

    Args:
        cfg: config the checkpoint was trained with.
        checkpoint: checkpoint of that network.
        out: ``.pth`` file to write.
        images: image file, folder or pattern of images to compare the networks on, beside a random input; the model's
            preprocessor is applied.
        most: largest number of images that are taken of these, at equal distances in the order of their names.
        shape: height and width of the inputs; by default 224 x 224 for classifiers, else 256 x 256.
        tolerance: largest relative difference of the raw outputs, in float32, that passes.
        trust: as in :func:`mmkerv.engine.safe_load`.
        upstream_deploy: whether to call the deploy step of the backbone too, which merges the branches of RepVGG,
            MobileOne and their like. The step of ``mmkerv.UniRepLKNet``, whose operators are no part of the config, is
            always called.
        split: as in :func:`mmkerv.ops.switch_to_deploy`: ``'dense'`` also folds operators that cost less as they are.

    Raises:
        FoldCheckError: if nothing can be folded, the outputs differ by more than ``tolerance``, the network computes
            nothing from images alone, or there is no deploy step.
        CheckpointMismatchError: if the checkpoint does not fit the network.
        ConfigError: if ``out`` or its config would overwrite what is read, or an image cannot be read.
        FileNotFoundError: if ``images`` names no image.

    Example:
        >>> fold_checkpoint(Config.fromfile('coc.py'), 'epoch_12.pth', 'deploy.pth').error  # doctest: +SKIP
        2.1e-07
    """
    require_other_files(cfg, checkpoint, out)
    found = find_images([images], '--images') if images else []
    files = spread(found, most)
    loaded = safe_load(checkpoint, trust=trust)
    state_dict = weights_of(loaded, str(checkpoint))
    model = build_model(cfg, state_dict, str(checkpoint)).float()
    associations = association_strength(model)
    folded = copy.deepcopy(model)
    report = switch_to_deploy(folded, split)
    if not report.replaced and not any(adapted_layers(model)):
        raise FoldCheckError(f'{checkpoint}: the network has no operator that folds{_reasons(report)}')
    # Before the branches merge, which removes some of the folded layers.
    dearer = _dearer(model, folded, report.replaced)
    kept = {operator_name(type(folded.get_submodule(name))) for name in report.kept}
    plain_cfg = _plainest_config(cfg, tuple(kept))
    if upstream_deploy or merges_always(folded):
        merge_branches(folded, plain_cfg)
    elif merges_branches(folded):
        log(
            f'mmkerv: {type(folded.backbone).__name__} can merge its branches into one convolution a block; '
            '--upstream-deploy does that too'
        )
    plain = build_model(plain_cfg, folded.state_dict(), f'{checkpoint} (folded)').float()
    kind, shape = computable(model, [shape] if shape else shapes_to_try(cfg, model))
    if files:
        height, width = shape
        taken = f'{len(files)} of the {len(found)} images of {images}' if len(found) > 1 else found[0]
        log(
            f'mmkerv: comparing the {kind.name} of the two networks on a random input and {taken}, each of '
            f'{height} x {width}'
        )
    error, count = 0.0, 0
    with frozen_kernels(model), frozen_kernels(plain):
        for inputs, samples in sample_inputs(model, shape, files):
            error = max(error, largest_difference(kind.of(model, inputs, samples), kind.of(plain, inputs, samples)))
            count += 1
    if not error <= tolerance:
        raise FoldCheckError(
            f'{checkpoint}: the folded network differs by {error:.2e} of the largest output, more than '
            f'{tolerance:.0e}; nothing was written. Please report this with the config'
        )
    _tell_of_own_modules(plain_cfg, kept)
    meta = loaded.get('meta') if 'state_dict' in loaded else None
    meta = {k: v for k, v in meta.items() if k != 'cfg'} if isinstance(meta, dict) else {}
    meta['cfg'] = plain_cfg.pretty_text
    with atomic_path(Path(out).with_suffix('.py')) as config:
        config.write_text(plain_cfg.pretty_text, encoding='utf-8')
        save_checkpoint({'meta': meta, 'state_dict': plain.state_dict()}, out)
    return FoldResult(report, error, associations, count, kind.name, dearer)


def _tell_of_own_modules(cfg: Config, kept: set[str | None]) -> None:
    """Log the modules of folded operators of the user that the folded config still imports."""
    imports = (cfg.get('custom_imports') or {}).get('imports') or ()
    modules = {kind.__module__ for name, kind in own_operators().items() if name not in kept}
    if left := modules.intersection([imports] if isinstance(imports, str) else imports):
        log(
            f'mmkerv: custom_imports of the folded config keeps {", ".join(sorted(left))}, whose operators are folded '
            'now; take it out if nothing else in it is needed'
        )


def _plainest_config(cfg: Config, kept: tuple[str, ...]) -> Config:
    """Return the deploy config, without ``mmkerv.FoldedConv`` if the host's own convolutions have the same shapes."""
    config, host = deploy_config(cfg, kept), deploy_config(cfg, kept, host_shapes=True)
    if host.model == config.model:
        return config
    return host if _convolutions(built(host)) == _convolutions(built(config)) else config


def _convolutions(model: nn.Module) -> dict[str, str]:
    return {name: repr(m) for name, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd)}


def require_other_files(cfg: Config, checkpoint: str | Path, out: str | Path) -> None:
    """Refuse to write ``out`` and its config over the config or the checkpoint that they are made from.

    Args:
        cfg: config that was read.
        checkpoint: checkpoint to read.
        out: ``.pth`` file to write, with its config beside it.

    Raises:
        ConfigError: naming the file, and what to do.

    Example:
        >>> require_other_files(Config(), 'epoch_12.pth', 'deploy.pth')
    """
    sources = {Path(file).resolve() for file in (cfg.filename, checkpoint) if file}
    for target in (Path(out), Path(out).with_suffix('.py')):
        if target.resolve() in sources:
            raise ConfigError(
                f'save_path {str(out)!r} would overwrite {str(target)!r}, which is read: {out} is written together '
                'with its config, of the same name with the suffix .py. Give another name or folder'
            )


def _dearer(model: nn.Module, folded: nn.Module, names: list[str]) -> dict[str, tuple[int, int]]:
    """Return the multiplications for a position before and after folding, of operators that cost more folded."""
    found = {}
    for name in names:
        operator = model.get_submodule(name)
        if getattr(operator, 'costs_more_folded', False):
            before = sum(kernel.numel() for kernel in operator.own_parameters().values())
            found[name] = before, folded.get_submodule(name).weight.numel()
    return found


def _reasons(report: DeployReport) -> str:
    """Return the reasons for which operators were kept, each once, with one of the names."""
    names: dict[str, list[str]] = {}
    for name, reason in report.kept.items():
        names.setdefault(reason, []).append(name)
    return ''.join(f'; it keeps {len(kept)}, such as {kept[0]}: {reason}' for reason, kept in names.items())


def shapes_to_try(cfg: Config, model: nn.Module) -> list[tuple[int, int]]:
    """Return heights and widths of images to try: the default, then what preprocessor, network and pipeline name.

    Example:
        >>> shapes_to_try(Config({'default_scope': 'mmpretrain'}), nn.Identity())
        [(224, 224)]
    """
    sizes = [getattr(getattr(model, 'data_preprocessor', None), 'size', None)]
    sizes += [getattr(module, 'img_size', None) for module in model.modules()]
    loader = cfg.get('test_dataloader') or {}
    if isinstance(loader, (list, tuple)):
        # A loader for each data set.
        loader = loader[0] if loader else {}
    for step in loader.get('dataset', {}).get('pipeline') or cfg.get('test_pipeline') or ():
        scale = None if step.get('keep_ratio') else step.get('scale')
        # Pipelines name the width first.
        sizes += [step.get('crop_size'), scale[::-1] if isinstance(scale, tuple) else scale]
    shapes = [CLASSIFIER_SHAPE if library_of(cfg) == 'mmpretrain' else OTHER_SHAPE]
    for size in sizes:
        if isinstance(size, int):
            shapes.append((size, size))
        elif isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(n, int) for n in size):
            shapes.append(tuple(size))
    return list(dict.fromkeys(shapes))


def likely_shapes(cfg: Config, model: nn.Module) -> list[tuple[int, int]]:
    """Return the size of the images that a network gets, if the config tells it, and then those of `shapes_to_try`.

    Example:
        >>> likely_shapes(cfg, model)  # doctest: +SKIP
        [(800, 1344), (256, 256)]
    """
    try:
        known = [pipeline_shape(cfg, model)]
    except ConfigError:
        known = []
    return list(dict.fromkeys([*known, *shapes_to_try(cfg, model)]))
