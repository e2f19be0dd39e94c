"""The settings of the study as data, and the config of each of its runs."""

from copy import deepcopy
from mimetypes import guess_type
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmkerv.engine.config.read import load_config
from mmkerv.errors import ArgumentError
from mmkerv.ops.coc.options import CoCOptions

RECIPE = Path(__file__).resolve().parents[2] / 'configs' / 'tiny_imagenet' / 'resnet18_tiny_imagenet.py'
# Changes of the recipe's model for each backbone.
BACKBONES = {
    'resnet18': {},
    'shufflenet_v2_1x': dict(
        backbone=dict(_delete_=True, type='ShuffleNetV2', widen_factor=1.0), head=dict(in_channels=1024)
    ),
}
SUPER_INITS = ('identity', 'kaiming')
# The paper gives no weight. With 3e-3, SGD on this loss alone diverges from the initial weights of ShuffleNetV2.
ORTH_WEIGHT = 1e-3
KERV = dict(type='mmkerv.KervConv', kernel='polynomial', degree=3, balance=2.0)


class Setting(NamedTuple):
    """Hyperparameters of Figure 7, named as the arguments of ``CoCConv`` where those exist.

    The defaults are the paper's optimum. For comparison, ``coc=False`` is the network with plain convolutions, and
    ``kerv`` the one with a polynomial kervolution as its first layer.
    """

    association: int = 2
    kernel_plus: int = 2
    num_layers: int = 1
    skip: bool = True
    dilate: bool = True
    replace_1x1: bool = False
    orth: bool = False
    stnd: bool = False
    coc: bool = True
    kerv: bool = False

    def __str__(self) -> str:
        changed = ', '.join(f'{k}={v}' for k, v in self._asdict().items() if v != self._field_defaults[k])
        return changed or 'the optimum'


OPTIMUM = '221'
# The paper's names: digits are sa, skp and sl, and a word is the option that differs from the optimum.
SETTINGS = {
    'plain': Setting(coc=False),
    'plain_orth': Setting(coc=False, orth=True),
    'plain_stnd': Setting(coc=False, stnd=True),
    'kerv_stem': Setting(coc=False, kerv=True),
    '221': Setting(),
    '121': Setting(association=1),
    '321': Setting(association=3),
    '421': Setting(association=4),
    '201': Setting(kernel_plus=0),
    '241': Setting(kernel_plus=4),
    '261': Setting(kernel_plus=6),
    '222': Setting(num_layers=2),
    '223': Setting(num_layers=3),
    'no_skip': Setting(skip=False),
    'no_dilate': Setting(dilate=False),
    'orth': Setting(orth=True),
    'stnd': Setting(stnd=True),
    'c1x1': Setting(replace_1x1=True),
}


class Data(NamedTuple):
    """Folder ``{train,val}/CLASS/*`` of images, with the numbers of its classes and images."""

    folder: Path
    classes: int
    train: int
    val: int

    def facts(self) -> dict[str, Any]:
        """Return the description of the data for a record."""
        return {'name': self.folder.name, 'classes': self.classes, 'train': self.train, 'val': self.val}


class Job(NamedTuple):
    """One training run."""

    backbone: str
    setting: str
    seed: int
    epochs: int
    size: int
    super_init: str = 'identity'

    @property
    def start(self) -> str | None:
        """Initialisation of the super layers; weight standardisation excludes the identity."""
        options = coc_options(self)
        return CoCOptions(**options).start if options else None

    def name(self, data: Data) -> str:
        """Return the name of the record, which contains all that the result depends on."""
        dataset = f'{data.folder.name}-{data.classes}x{data.train}'
        start = f'-{self.start}' if self.start else ''
        return f'{self.backbone}__{self.setting}{start}__{dataset}__{self.size}px__{self.epochs}ep__seed{self.seed}'


def coc_options(job: Job) -> dict[str, Any]:
    """Return the arguments of ``CoCConv`` without ``replace_1x1``; none for plain convolutions."""
    setting = SETTINGS[job.setting]
    if not setting.coc:
        return {}
    options = {key: value for key, value in setting._asdict().items() if key in CoCOptions._fields}
    no_identity = setting.stnd and job.super_init == 'identity'
    # As in the authors' settings; orthogonalisation diverges with a super bias.
    options['super_bias'] = False
    return options | {'standardize': setting.stnd, 'super_init': 'auto' if no_identity else job.super_init}


def configure(job: Job, data: Data, loaders: int | None = None) -> Config:
    """Return the recipe with the run's backbone, operator, image size, epochs and seed.

    Args:
        job: the run.
        data: the images.
        loaders: number of data loader workers; by default the recipe's.
    """
    setting = SETTINGS[job.setting]
    cfg = load_config(str(RECIPE), {'data_root': str(data.folder)})
    # A copy, because merging removes `_delete_` from its argument.
    cfg.merge_from_dict(dict(model=deepcopy(BACKBONES[job.backbone])))
    backbone = cfg.model.backbone
    if setting.coc:
        backbone.type = f'mmkerv.{backbone.type}'
        backbone.conv_cfg = dict(type='mmkerv.CoCConv', replace_1x1=setting.replace_1x1, **coc_options(job))
        backbone.where = dict(kernel_sizes='all' if setting.replace_1x1 else '>1')
    elif setting.kerv:
        backbone.update(type=f'mmkerv.{backbone.type}', conv_cfg=KERV, where=dict(stages=()))
    elif setting.stnd:
        backbone.conv_cfg = dict(type='ConvWS')
    # Also log training accuracy; top-5 accuracy would need at least five classes.
    cfg.model.head.update(num_classes=data.classes, topk=(1,), cal_acc=True)
    cfg.val_evaluator.topk = (1,)
    cfg.data_preprocessor.num_classes = data.classes
    if setting.orth:
        cfg.custom_hooks = [
            *(cfg.get('custom_hooks') or []),
            dict(type='mmkerv.OrthogonalityHook', weight=ORTH_WEIGHT),
        ]
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.pipeline = resized(loader.dataset.pipeline, job.size)
        if loaders is not None:
            loader.num_workers = loaders
    scale = job.epochs / cfg.train_cfg.max_epochs
    cfg.train_cfg.max_epochs = job.epochs
    cfg.param_scheduler.milestones = [round(epoch * scale) for epoch in cfg.param_scheduler.milestones]
    cfg.randomness = dict(seed=job.seed)
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    cfg.default_hooks.checkpoint = None
    # The last line of an epoch in the log contains means over the epoch.
    cfg.default_hooks.logger.ignore_last = False
    means = [dict(data_src=source, method_name='mean', window_size='epoch') for source in ('accuracy_top-1', 'time')]
    cfg.log_processor = dict(custom_cfg=means)
    return cfg


def resized(pipeline: list[dict], size: int) -> list[dict]:
    """Scale images to ``size`` x ``size`` after reading; random crops and their padding are scaled too."""
    read, *rest = pipeline
    for step in rest:
        if step['type'] == 'RandomCrop':
            step['padding'] = step['padding'] * size // step['crop_size']
            step['crop_size'] = size
    return [read, dict(type='Resize', scale=(size, size)), *rest]


def inspect(folder: Path) -> Data:
    """Count classes and images of ``{train,val}/CLASS/*``.

    Raises:
        FileNotFoundError: if the folder, its train or its val does not exist.
        ValueError: if train and val have different classes.
    """
    layout = 'it must contain train/CLASS/*.JPEG and val/CLASS/*.JPEG'
    if not folder.is_dir():
        raise FileNotFoundError(f'--data {folder} does not exist; {layout}')
    classes, images = {}, {}
    for split in ('train', 'val'):
        if not (folder / split).is_dir():
            raise FileNotFoundError(f'--data {folder} has no folder {split}; {layout}')
        classes[split] = {path.name for path in (folder / split).iterdir() if path.is_dir()}
        files = (path for name in classes[split] for path in (folder / split / name).rglob('*'))
        images[split] = sum((guess_type(path.name)[0] or '').startswith('image/') for path in files)
    if classes['train'] != classes['val']:
        odd = ', '.join(sorted(classes['train'] ^ classes['val'])[:3])
        raise ArgumentError(f'--data {folder}: train and val must have the same classes, only one has {odd}; {layout}')
    for split, count in images.items():
        if not count:
            raise FileNotFoundError(f'--data {folder}: no image in {split}; {layout}')
    return Data(folder.resolve(), len(classes['train']), images['train'], images['val'])
