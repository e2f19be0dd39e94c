"""Options of test.py: painting, test-time augmentation, dumping results, in the form each library has for them."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import mmengine
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults
from mmengine.runner import Runner

from mmkerv.distributions import BUILT_ON
from mmkerv.engine.config.check import datasets
from mmkerv.engine.config.prepare import build_runner
from mmkerv.engine.data_checks.own_files import require_no_data
from mmkerv.engine.scope import library_of
from mmkerv.errors import ConfigError
from mmkerv.registry import local_name

# Libraries whose predictions are boxes.
DETECTION = ('mmdet', *(library for library, base in BUILT_ON.items() if base == 'mmdet'))


def paint_predictions(
    cfg: Config, show: bool, show_dir: str | None, wait_time: float, interval: int | None = None
) -> None:
    """Switch on the visualization hook of the config's library.

    Raises:
        ConfigError: if the config has no visualization hook or no visualizer, or the hook of its library has no
            ``interval``.

    Example:
        >>> hooks = dict(visualization=dict(type='DetVisualizationHook'))
        >>> cfg = Config(dict(default_scope='mmdet', default_hooks=hooks, visualizer={}))
        >>> paint_predictions(cfg, False, 'out', 2); cfg.default_hooks.visualization.test_out_dir
        'out'
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ConfigError('--show and --show-dir need default_hooks=dict(visualization=...) in the config, it has none')
    if cfg.get('visualizer') is None:
        # mmengine's default visualizer draws no predictions, without a word.
        raise ConfigError('--show and --show-dir need a visualizer of the library in the config, it has none')
    hook.update(show=show, wait_time=wait_time)
    scope = library_of(cfg)
    if scope == 'mmpretrain':
        hook.update(enable=True, out_dir=show_dir, interval=interval or 1)
    elif interval is not None:
        raise ConfigError(f'--interval is for classification, and {scope} draws every image of a test: leave it out')
    elif scope == 'mmseg':
        hook.draw = True
        if show_dir:
            cfg.visualizer.save_dir = show_dir
            # Pictures are files only through this backend.
            add_local_backend(cfg)
    else:
        hook.update(draw=True, test_out_dir=show_dir)


def add_local_backend(cfg: Config) -> None:
    """Let the visualizer write files into the work folder: pictures, and the logged values as ``scalars.json``.

    Example:
        >>> cfg = Config(dict(visualizer=dict(type='Visualizer', vis_backends=[]))); add_local_backend(cfg)
        >>> cfg.visualizer.vis_backends
        [{'type': 'LocalVisBackend'}]
    """
    visualizer = cfg.get('visualizer') or ConfigDict(type='Visualizer')
    backends = list(visualizer.get('vis_backends') or [])
    if not any(local_name(b.get('type'), ('', 'mmengine')) == 'LocalVisBackend' for b in backends):
        visualizer.vis_backends = [*backends, {'type': 'LocalVisBackend'}]
    cfg.visualizer = visualizer


def augment_test(cfg: Config) -> None:
    """Wrap the model for test-time augmentation; without ``tta_pipeline`` in the config, by flipping.

    Raises:
        ConfigError: if the config has no ``tta_model`` and its library has no default.

    Example:
        >>> augment_test(cfg)  # doctest: +SKIP
    """
    scope = library_of(cfg)
    defaults = {
        'mmdet': {'type': 'DetTTAModel', 'tta_cfg': {'nms': {'type': 'nms', 'iou_threshold': 0.5}, 'max_per_img': 100}},
        'mmpretrain': {'type': 'mmpretrain.AverageClsScoreTTA'},
    }
    tta_model = cfg.get('tta_model') or defaults.get(scope)
    if tta_model is None:
        raise ConfigError(f'--tta needs tta_model and tta_pipeline in a config of {scope}, it has none')
    for _, dataset in datasets(cfg.test_dataloader, 'test_dataloader'):
        dataset.pipeline = deepcopy(cfg.get('tta_pipeline')) or _flipped(dataset.pipeline, scope)
    cfg.model = ConfigDict(**{**tta_model, 'module': cfg.model})


def _flipped(pipeline: list[dict], scope: str | None) -> list[dict]:
    """Return a pipeline that ends in the image and its mirror image."""
    last = deepcopy(pipeline[-1])
    if scope in DETECTION:
        last['meta_keys'] = (
            'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'
        )  # fmt: skip
    # mmrotate's registry has no transforms of mmdetection.
    name = f'{BUILT_ON[scope]}.RandomFlip' if scope in BUILT_ON else 'RandomFlip'
    flips = [{'type': name, 'prob': p} for p in (1.0, 0.0)]
    return [*pipeline[:-1], {'type': 'TestTimeAug', 'transforms': [flips, [last]]}]


def evaluate(
    cfg: Config,
    out: str | None = None,
    out_item: str = 'pred',
    short_log: bool = False,
    show_dir: str | None = None,
) -> dict[str, Any]:
    """Run the test, and write the metrics or predictions.

    Args:
        cfg: prepared config with ``load_from``.
        out: file, or for predictions of a segmentor folder, to write to.
        out_item: ``'pred'`` or ``'metrics'``.
        short_log: as in :func:`mmkerv.engine.build_runner`.
        show_dir: folder that the visualization hook of the config writes to.

    Returns:
        The metrics.

    Raises:
        ConfigError: if ``out`` has a suffix mmengine cannot write, or pictures would replace files of the data.

    Example:
        >>> evaluate(cfg)['coco/bbox_mAP']  # doctest: +SKIP
    """
    scope = library_of(cfg)
    predictions = out if out_item == 'pred' else None
    if predictions and scope == 'mmseg':
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
        for evaluator in evaluators:
            # Other metrics of a list write no pictures.
            if len(evaluators) == 1 or local_name(evaluator.get('type'), ('', 'mmseg')) == 'IoUMetric':
                evaluator.update(output_dir=predictions, keep_results=True)
    elif out and not out.endswith(('.pkl', '.pickle') if predictions else ('.json', '.yaml', '.yml', '.pkl')):
        wanted = '.pkl' if predictions else '.json, .yaml or .pkl'
        raise ConfigError(f'--out must end in {wanted} for {out_item}, got {out!r}')
    runner = build_runner(cfg, short_log)
    if predictions and scope == 'mmseg':
        _require_no_data(runner, predictions, '--out')
    # mmdet takes a relative folder for one in the work folder; the others write other names, or a folder in it.
    if show_dir and scope in DETECTION and Path(show_dir).is_absolute():
        _require_no_data(runner, show_dir, '--show-dir')
    if predictions and scope in DETECTION:
        from mmdet.evaluation import DumpDetResults

        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=predictions))
    elif predictions and scope != 'mmseg':
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=predictions))
    metrics = runner.test()
    if out and out_item == 'metrics':
        mmengine.dump(metrics, out)
    return metrics


def _require_no_data(runner: Runner, folder: str, argument: str) -> None:
    loaders = runner.test_loop.dataloader
    for loader in loaders if isinstance(loaders, (list, tuple)) else [loaders]:
        require_no_data(loader.dataset, folder, argument)
