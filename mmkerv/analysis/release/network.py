"""A network to publish: its forms, their weights without anything private, and what is known of it."""

import io
import math
from argparse import Namespace
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.config import Config
from torch import Tensor

from mmkerv.analysis.comparison.cost import Cost, cost, unlogged
from mmkerv.analysis.comparison.record import main_metric
from mmkerv.analysis.plan.trial_step import built_here
from mmkerv.analysis.release.public import public_config, refuse_private
from mmkerv.deploy.fold import fold_checkpoint
from mmkerv.deploy.trained_model import built
from mmkerv.deploy.weights_index import FOLDED, TRAINED
from mmkerv.engine.checkpoint.publish import strip_checkpoint
from mmkerv.engine.checkpoint.safe_load import safe_load
from mmkerv.engine.config.as_data import config_from_text
from mmkerv.engine.config.check import datasets, loaders
from mmkerv.engine.config.evaluation import evaluate
from mmkerv.engine.config.patches import apply_patches
from mmkerv.engine.config.prepare import prepare, set_loader_defaults
from mmkerv.engine.config.read import load_config
from mmkerv.engine.scope import enter_scope, library_of
from mmkerv.ops import switch_to_deploy
from mmkerv.ops.core.adapter import adapted_layers
from mmkerv.utils import printable
from mmkerv.version import __version__

# Of the records that a runner keeps in a checkpoint, those that tell of the training alone.
RECORDS = ('epoch', 'iter', 'seed', 'mmengine_version')
TASKS = {
    'mmdet': 'object detection',
    'mmrotate': 'detection of rotated objects',
    'mmseg': 'semantic segmentation',
    'mmpretrain': 'image classification',
}


@dataclass(frozen=True)
class Source:
    """A trained network, where its training has left it.

    Args:
        name: name of the network in the folder.
        config: config of the training.
        checkpoint: its weights.
        operator: its operator with its settings, ``'plain'`` for none; ``None`` if no comparison tells it.
        metrics: metrics of the last evaluation in the training.
        values: the same metric for every seed of its comparison, by seed.
        date: date of the training.

    Example:
        >>> Source('a_coc', Path('a.py'), Path('epoch_1.pth'), 'coc', {}, {}, '2026-11-30').operator
        'coc'
    """

    name: str
    config: Path
    checkpoint: Path
    operator: str | None
    metrics: dict[str, float]
    values: dict[int, float]
    date: str


@dataclass
class Form:
    """A network as it is published: trained or folded.

    Args:
        cfg: config that it is evaluated with, on this machine.
        weights: its parameters and buffers by name.
        meta: what its checkpoint holds beside them.
        half: whether the weights are stored in float16.
        metrics: metrics of the stored weights; ``None`` if they were not measured.

    Example:
        >>> form = Form(Config(dict(model=dict(type='ResNet'))), {'a': torch.ones(2)}, {})
        >>> safe_load(io.BytesIO(form.checkpoint(half=True)))['state_dict']
        {'a': tensor([1., 1.], dtype=torch.float16)}
    """

    cfg: Config
    weights: dict[str, Tensor]
    meta: dict[str, Any]
    half: bool = False
    metrics: dict[str, float] | None = None
    text: str = field(init=False)

    def __post_init__(self):
        self.text = public_config(self.cfg).pretty_text

    def checkpoint(self, half: bool | None = None) -> bytes:
        """Return the content of the checkpoint; equal weights give equal bytes."""
        weights = self.weights
        if self.half if half is None else half:
            weights = {name: value.half() if value.dtype == torch.float32 else value for name, value in weights.items()}
        stream = io.BytesIO()
        torch.save({'meta': {**self.meta, 'cfg': self.text}, 'state_dict': weights}, stream)
        return stream.getvalue()

    def measure(self, folder: Path, half: bool) -> dict[str, float]:
        """Return the metrics of the weights as they are stored.

        Args:
            folder: folder for the checkpoint and what the evaluation writes.
            half: whether they are stored in float16.
        """
        cfg, weights = deepcopy(self.cfg), folder / 'weights.pth'
        folder.mkdir(parents=True)
        weights.write_bytes(self.checkpoint(half))
        cfg.load_from, cfg.resume, cfg.experiment_name = str(weights), False, f'release_{folder.name}'
        set_loader_defaults(cfg)
        prepare(cfg, Namespace(config='release', work_dir=str(folder), launcher='none'), ('test',))
        apply_patches(library_of(cfg))
        found = evaluate(cfg, short_log=True)
        return {key: float(value) for key, value in found.items() if _is_number(value)}


@dataclass
class Network:
    """A network to publish.

    Args:
        source: where it comes from.
        cfg: config of its training.
        cost: its parameters and multiply-adds.
        forms: trained, and folded if it folds.
        kept: why it has no folded form, in words.
        difference: largest difference of the raw outputs of the two forms, relative to the largest output.
        images: number of samples of training and test.

    Example:
        >>> network(source, ('trained', 'folded'), Path('scratch')).forms  # doctest: +SKIP
    """

    source: Source
    cfg: Config
    cost: Cost
    forms: dict[str, Form]
    kept: str | None = None
    difference: float | None = None
    images: dict[str, int] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """What the network does, in words."""
        return TASKS.get(library_of(self.cfg), 'unknown')

    @property
    def data(self) -> str:
        """Class and folder of the test data, or of those of the training."""
        cfg = public_config(self.cfg)
        found = [part for phase in ('test', 'val', 'train') for part in datasets(cfg.get(f'{phase}_dataloader'), phase)]
        if not found:
            return 'unknown'
        dataset = found[0][1]
        root = str(dataset.get('data_root') or cfg.get('data_root') or '').rstrip('/')
        return f'{dataset["type"]}{f" in {root}" if root else ""}'

    @property
    def operator(self) -> str:
        """Its operator with its settings, or which convolutions are operators."""
        return self.source.operator or self.cost.replaced


def network(
    source: Source, forms: tuple[str, ...], folder: Path, options: dict[str, Any] | None = None, trust: bool = False
) -> Network:
    """Read, fold and describe a network; nothing is written but what the fold tool writes.

    Args:
        source: where it comes from.
        forms: ``'trained'``, ``'folded'`` or both.
        folder: empty folder for the folded checkpoint.
        options: as ``--cfg-options``.
        trust: as in :func:`mmkerv.engine.safe_load`.

    Raises:
        ConfigError: if something private cannot be left out.
        FoldCheckError: if the folded network does not compute the same.
        NonFiniteWeightsError: if a weight is NaN or infinite.
        UnsafeCheckpointError: if the checkpoint holds more than data.

    Example:
        >>> network(source, ('trained',), Path('scratch')).task  # doctest: +SKIP
        'image classification'
    """
    cfg = load_config(str(source.config), options)
    loaded = safe_load(source.checkpoint, trust=trust)
    meta = public_meta(loaded, str(source.checkpoint))
    weights = strip_checkpoint(loaded, ('state_dict',), source=str(source.checkpoint))['state_dict']
    found = Network(source, cfg, cost(cfg), {TRAINED: Form(cfg, weights, meta)})
    if FOLDED in forms and (reason := _kept(cfg)):
        found.kept = reason
    elif FOLDED in forms:
        folder.mkdir(parents=True)
        out = folder / 'deploy.pth'
        with unlogged():
            found.difference = fold_checkpoint(cfg, source.checkpoint, out, shape=found.cost.shape, trust=trust).error
        plain = load_config(str(out.with_suffix('.py')))
        found.forms[FOLDED] = Form(plain, safe_load(out)['state_dict'], meta)
    for form in found.forms.values():
        # What mmkerv.load refuses is not published.
        config_from_text(form.text, str(source.config))
    if TRAINED not in forms and FOLDED in found.forms:
        del found.forms[TRAINED]
    return found


def public_meta(checkpoint: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the records of a checkpoint that may be published: how long it was trained, classes, versions.

    Raises:
        ConfigError: if a name of a class is a path of this machine.

    Example:
        >>> meta = {'epoch': 1, 'cfg': '/home/me', 'dataset_meta': {'classes': ['car']}}
        >>> public_meta({'state_dict': {}, 'meta': meta}, 'a.pth')['dataset_meta']
        {'classes': ['car']}
    """
    meta = checkpoint.get('meta') if 'state_dict' in checkpoint else None
    meta = meta if isinstance(meta, dict) else {}
    known = {key: meta[key] for key in RECORDS if isinstance(meta.get(key), (int, str))}
    if isinstance(meta.get('dataset_meta'), dict):
        lists = {str(key).lower(): value for key, value in meta['dataset_meta'].items()}
        known['dataset_meta'] = {key: lists[key] for key in ('classes', 'palette') if lists.get(key) is not None}
    refuse_private(known, f'checkpoint {source}')
    return {'mmkerv_version': __version__, 'mmengine_version': mmengine.__version__, **known}


def _kept(cfg: Config) -> str | None:
    """Return why a network has no folded form, or ``None`` if it has one."""
    with unlogged():
        model = built(cfg).eval()
    adapted = any(adapted_layers(model))
    report = switch_to_deploy(model)
    if report.replaced or adapted:
        return None
    reasons = list(dict.fromkeys(report.kept.values()))
    return printable('; '.join(reasons), 500) if reasons else 'it has no operators'


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def counted_images(cfg: Config) -> dict[str, int]:
    """Return the number of samples of the training and of the test.

    Example:
        >>> counted_images(load_config('configs/demo/retinanet_half_shapes.py'))  # doctest: +SKIP
        {'train': 800, 'test': 200}
    """
    cfg = deepcopy(cfg)
    # A folder may hold networks of several libraries.
    enter_scope(cfg)
    set_loader_defaults(cfg)
    found = {}
    for phase in ('train', 'test'):
        with unlogged():
            sizes = [len(built_here(loader).dataset) for _, loader in loaders(cfg, phase)]
        if sizes:
            found[phase] = sum(sizes)
    return found


def measure(networks: list[Network], folder: Path, half: bool, tell: Any = print) -> None:
    """Evaluate the stored weights of every form.

    If ``half`` is set, weights become float16 where the usual metric of the task stays the same.

    Args:
        networks: the networks; their forms get ``metrics`` and ``half``.
        folder: folder for what the evaluations write.
        half: whether float16 is tried.
        tell: called with a line of text.

    Example:
        >>> measure(networks, Path('scratch'), half=False)  # doctest: +SKIP
    """
    for found in networks:
        found.images = counted_images(found.cfg)
        for kind, form in found.forms.items():
            name = f'{found.source.name}_{kind}'
            tell(f'{name}: evaluating')
            form.metrics = form.measure(folder / name, half=False)
            if half:
                tell(f'{name}: evaluating in float16')
                stored = form.measure(folder / f'{name}_half', half=True)
                metric = main_metric([form.metrics])
                before, after = form.metrics.get(metric), stored.get(metric)
                form.half = before is not None and before == after
                if form.half:
                    form.metrics = stored
                in_float16 = f'{metric} {before} in float32, {after} in float16'
                tell(f'{name}: {"float16" if form.half else "stays float32"}: {in_float16}')
