"""A trained model and an image for it, from the names a user types: what the tools that look at models start from."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmkerv.deploy.fold import build_model
from mmkerv.engine.checkpoint.match import weights_of
from mmkerv.engine.checkpoint.safe_load import safe_load
from mmkerv.engine.config.prepare import ConfigError, load_config
from mmkerv.ops.core.base import Conv2d


def load_trained(
    config: str,
    checkpoint: str | Path | None,
    options: dict[str, Any] | None = None,
    device: str = 'cpu',
    trust: bool = False,
) -> tuple[Config, nn.Module]:
    """Return the config and its model, in evaluation mode on a device, with weights that fit it completely.

    Args:
        config: config file.
        checkpoint: checkpoint of its model; ``None`` leaves the weights as they are built.
        options: as ``--cfg-options``.
        device: as ``torch.device`` takes it.
        trust: as :func:`mmkerv.engine.safe_load` has it.

    Raises:
        ConfigError: if there is no such device, or an option does not fit.
        CheckpointMismatchError: if the weights are not of the config's model.
        FileNotFoundError: if a file is not there.

    Example:
        >>> cfg, model = load_trained('configs/retinanet_r50_coc.py', 'epoch_12.pth')  # doctest: +SKIP
    """
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f'--device {device!r} cannot be used here: {str(error).splitlines()[0]}. Use --device cpu, or a device '
            'that torch lists'
        ) from error
    cfg = load_config(config, options)
    if cfg.get('data_preprocessor'):
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    if checkpoint is None:
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
    else:
        model = build_model(cfg, weights_of(safe_load(checkpoint, trust=trust), str(checkpoint)), str(checkpoint))
    return cfg, model.to(place)


def find_layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Return the modules of these names, in their order; ``'model.'`` before a name is ignored, as upstream's tools do.

    Raises:
        ConfigError: for a name that the model does not have, with the nearest that it has.

    Example:
        >>> list(find_layers(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), ['1']))
        ['1']
    """
    modules = dict(model.named_modules())
    found = {}
    for name in names:
        own = name if name in modules and name else name.removeprefix('model.')
        if own not in modules or not own:
            near = get_close_matches(own, [known for known in modules if known], n=3, cutoff=0.3)
            raise ConfigError(
                f'--target-layers: the model has no layer {name!r}; the nearest names are {", ".join(near) or "none"}. '
                'print(model) or --preview-model shows all'
            )
        found[own] = modules[own]
    return found


def find_operators(
    model: nn.Module,
    names: Sequence[str] | None = None,
    kinds: type | tuple[type, ...] = Conv2d,
    label: str = 'operator of mmkerv',
    example: str = 'mmkerv.CoCConv',
) -> dict[str, nn.Module]:
    """Return the operators of a model by name; if names are given, those at or inside the modules of these names.

    Args:
        model: any module.
        names: as :func:`find_layers` takes them.
        kinds: classes that count.
        label: what they are called where there is none.
        example: ``type`` of a ``conv_cfg`` that gives some.

    Raises:
        ConfigError: if there is none, or a name is not of the model.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> list(find_operators(nn.Sequential(CoCConv2d(4, 4, 3), nn.ReLU())))
        ['0']
    """
    roots = find_layers(model, names) if names else {'': model}
    found: dict[str, nn.Module] = {}
    for root, module in roots.items():
        inside = {_join(root, name): m for name, m in module.named_modules() if isinstance(m, kinds)}
        if not inside:
            raise ConfigError(_no_operator(model, root, kinds, label, example))
        found |= inside
    return found


def load_image(model: nn.Module, cfg: Config, file: str | Path) -> dict[str, Any]:
    """Read an image through the config's test pipeline and the model's preprocessor.

    Returns:
        ``inputs`` (1, C, H, W) on the model's device, and ``data_samples`` of its library.

    Raises:
        FileNotFoundError: if the file is not there.
        ConfigError: if it cannot be read as an image, or the config has no test pipeline.

    Example:
        >>> load_image(model, cfg, 'demo.jpg')['inputs'].shape  # doctest: +SKIP
        torch.Size([1, 3, 800, 1216])
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f'image {str(file)!r} does not exist; give the path of an image file')
    import mmcv

    image = mmcv.imread(str(file), backend='pillow') if _is_image(file) else None
    if image is None:
        raise ConfigError(f'{str(file)!r} cannot be read as an image; give a file that an image viewer opens')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    steps = [step for step in _test_pipeline(cfg) if 'LoadAnnotations' not in str(step['type'])]
    if not any('Load' in str(step['type']) for step in steps):
        gray = next(m.in_channels for m in model.modules() if hasattr(m, 'kernel_size')) == 1
        steps.insert(0, {'type': 'LoadImageFromFile', 'color_type': 'grayscale' if gray else 'color'})
    data = Compose(steps)({'img_path': str(file), 'img_id': 0})
    return model.data_preprocessor(pseudo_collate([data]), False)


def _is_image(file: str | Path) -> bool:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError):
        return False
    return True


def _test_pipeline(cfg: Config) -> list[dict]:
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    dataset = (loader or {}).get('dataset', {})
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    pipeline = dataset.get('pipeline') or cfg.get('test_pipeline')
    if not pipeline:
        raise ConfigError('the config has no test_dataloader.dataset.pipeline to read an image with; add one')
    return list(pipeline)


def _no_operator(model: nn.Module, root: str, kinds: Any, label: str, example: str) -> str:
    every: Iterable[str] = [name for name, m in model.named_modules() if isinstance(m, kinds)]
    where = f'layer {root!r}' if root else f'the model ({type(model).__name__})'
    rest = ', '.join(list(every)[:3])
    cure = f'the model has some in {rest} ...' if rest else f'choose a config with conv_cfg=dict(type={example!r})'
    return f'{where} has no {label}; {cure}'


def _join(root: str, name: str) -> str:
    return '.'.join(part for part in (root, name) if part)
