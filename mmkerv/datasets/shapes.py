"""Built-in data set: small scenes of textured circles, rectangles and triangles.

``python -m mmkerv.datasets.shapes OUT_DIR`` writes it in official layouts, side by side in OUT_DIR; dota only with
``--layout``:

========  ==========================================================================================================
coco      ``{train,val}2017/*.jpg``, ``annotations/instances_{train,val}2017.json`` (boxes and polygons)
voc       ``VOCdevkit/VOC2012/{JPEGImages,SegmentationClass}``, ``ImageSets/Segmentation/{train,val,trainval}.txt``
dota      ``DOTA/{train,val}/images/*.png``, ``DOTA/{train,val}/labelTxt/*.txt`` (rotated boxes)
imagenet  ``{train,val}/<class>/*.jpg``, one shape in each picture
========  ==========================================================================================================

coco, voc and dota contain the same scenes. Upstream's dataset classes read them, with the class names in ``metainfo``::

    dict(type='CocoDataset', metainfo=dict(classes=('circle', 'rectangle', 'triangle')), ...)
    dict(type='BaseSegDataset', metainfo=dict(classes=('background', 'circle', 'rectangle', 'triangle')),
         img_suffix='.jpg', seg_map_suffix='.png', ...)
    dict(type='DOTADataset', metainfo=dict(classes=('circle', 'rectangle', 'triangle')),
         ann_file='train/labelTxt/', data_prefix=dict(img_path='train/images/'), ...)
    dict(type='ImageNet', metainfo=dict(classes=('circle', 'rectangle', 'triangle')), ...)

``PascalVOCDataset`` reads the voc layout too, but accepts only its own class names.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mmkerv.datasets.layouts import CocoWriter, DotaWriter, ImageNetWriter, VocWriter
from mmkerv.datasets.scenes import CLASSES, Scene, draw_scene, draw_single

Writer = CocoWriter | VocWriter | DotaWriter | ImageNetWriter
LAYOUTS: dict[str, type[Writer]] = {
    'coco': CocoWriter,
    'voc': VocWriter,
    'dota': DotaWriter,
    'imagenet': ImageNetWriter,
}
# Data sets written without a choice of layouts have these: with another, existing ones would be refused.
DEFAULT_LAYOUTS = ('coco', 'voc', 'imagenet')
SETTINGS_FILE = 'shapes.json'
_SPLITS = ('train', 'val')
# Raised whenever the same settings would give different files.
_VERSION = 1


@dataclass(frozen=True)
class ShapesSettings:
    """Settings of a data set, which determine its bytes on a given machine.

    Attributes:
        num_train: number of training scenes, 1 to 1,000,000.
        num_val: number of held-out scenes, 1 to 1,000,000.
        size: height and width in pixels, 32 to 4096.
        seed: seed of all scenes, >= 0.
        max_shapes: largest number of shapes in a scene, 1 to 20.
        layouts: some of ``'coco'``, ``'voc'``, ``'dota'`` and ``'imagenet'``; by default all but ``'dota'``.

    Raises:
        TypeError: if a number is not an int.
        ValueError: if a setting is outside its range.
    """

    num_train: int = 400
    num_val: int = 100
    size: int = 160
    seed: int = 0
    max_shapes: int = 5
    layouts: Sequence[str] = DEFAULT_LAYOUTS

    def __post_init__(self) -> None:
        limits = {'num_train': (1, 1_000_000), 'num_val': (1, 1_000_000), 'size': (32, 4096), 'seed': (0, 2**63 - 1)}
        for name, (low, high) in {**limits, 'max_shapes': (1, 20)}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f'{name} must be an int, got {value!r} of type {type(value).__name__}')
            if not low <= value <= high:
                raise ValueError(f'{name} must be from {low} to {high}, got {value}')
        unknown = [layout for layout in self.layouts if layout not in LAYOUTS]
        if isinstance(self.layouts, str) or unknown or not self.layouts:
            raise ValueError(f'layouts must be one or more of {list(LAYOUTS)}, got {self.layouts!r}')
        if 'imagenet' in self.layouts and min(self.num_train, self.num_val) < len(CLASSES):
            raise ValueError(
                f'num_train and num_val must be at least {len(CLASSES)} for the imagenet layout, one picture for each '
                f'class, got {self.num_train} and {self.num_val}; ask for more, or for other layouts'
            )
        object.__setattr__(self, 'layouts', tuple(layout for layout in LAYOUTS if layout in self.layouts))


def write_shapes(
    out_dir: str | os.PathLike, settings: ShapesSettings = ShapesSettings(), progress: bool = True
) -> bool:
    """Write the data set atomically into ``out_dir``.

    Scene i of a split depends only on (seed, split, i), so train and val differ, and a larger data set begins with the
    scenes of a smaller one. An existing data set of the same settings (possibly with more layouts) is kept.

    Args:
        out_dir: folder to create, with its parents.
        settings: settings of the data set.
        progress: whether to show a progress bar on stderr, if that is a terminal.

    Returns:
        True if the data set was written, False if it existed.

    Raises:
        FileExistsError: if ``out_dir`` is a file, or a folder that holds anything but that data set.
        NotADirectoryError: if a parent of ``out_dir`` is a file.

    Example:
        >>> import tempfile
        >>> settings = ShapesSettings(num_train=3, num_val=3, size=32, layouts=['coco'])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_shapes(f'{folder}/shapes', settings, progress=False)
        ...     write_shapes(f'{folder}/shapes', settings, progress=False)
        True
        False
    """
    out_dir = Path(os.path.abspath(out_dir))
    if _exists(out_dir, settings):
        return False
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    # A sibling folder is on the same file system, so it can be renamed.
    scratch = Path(tempfile.mkdtemp(prefix=f'.{out_dir.name}.', dir=out_dir.parent))
    try:
        new = scratch / out_dir.name
        _write(new, settings, progress)
        os.replace(new, out_dir)
    finally:
        shutil.rmtree(scratch)
    return True


def _write(root: Path, settings: ShapesSettings, progress: bool) -> None:
    root.mkdir()
    writers = {name: LAYOUTS[name](root) for name in settings.layouts}
    scene_writers = [writer for name, writer in writers.items() if name != 'imagenet']
    for split, count in zip(_SPLITS, (settings.num_train, settings.num_val), strict=True):
        if scene_writers:
            scenes = _draw_scenes(settings, split, count)
            for i, scene in _bar(scenes, count, f'{split} scenes', progress):
                for writer in scene_writers:
                    writer.add(split, i, scene)
        if 'imagenet' in writers:
            pictures = _draw_pictures(settings, split, count)
            for i, picture in _bar(pictures, count, f'{split} pictures', progress):
                writers['imagenet'].add(split, i, picture)
    for writer in writers.values():
        writer.close()
    record = {'version': _VERSION, 'settings': asdict(settings), 'num_files': _count_files(root)}
    (root / SETTINGS_FILE).write_text(json.dumps(record, indent=2) + '\n')


def _draw_scenes(settings: ShapesSettings, split: str, count: int) -> Iterator[Scene]:
    for i in range(count):
        yield draw_scene(_generator(settings, 'scene', split, i), settings.size, settings.max_shapes)


def _draw_pictures(settings: ShapesSettings, split: str, count: int) -> Iterator[Scene]:
    for i in range(count):
        yield draw_single(_generator(settings, 'picture', split, i), settings.size, i % len(CLASSES))


def _generator(settings: ShapesSettings, kind: str, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, ('scene', 'picture').index(kind), _SPLITS.index(split), index])


def _bar(scenes: Iterator[Scene], total: int, title: str, progress: bool) -> Iterator[tuple[int, Scene]]:
    # In a file, the bar would be one line of all its states; with None tqdm draws on a terminal only.
    return enumerate(tqdm(scenes, total=total, desc=title, disable=None if progress else True))


def _count_files(root: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(root))


def _exists(out_dir: Path, settings: ShapesSettings) -> bool:
    """Return whether ``out_dir`` contains the data set; raises FileExistsError if it contains anything else."""
    advice = 'give another out_dir or remove this one'
    for parent in out_dir.parents:
        if parent.is_file():
            raise NotADirectoryError(f'out_dir {out_dir} is below {parent}, which is a file; {advice}')
    if not os.path.lexists(out_dir):
        return False
    if not out_dir.is_dir():
        raise FileExistsError(f'out_dir must be a folder or not exist, but {out_dir} is a file; {advice}')
    if not any(out_dir.iterdir()):
        return False
    record_file = out_dir / SETTINGS_FILE
    if not record_file.is_file():
        raise FileExistsError(f'out_dir {out_dir} holds other files and no {SETTINGS_FILE}; {advice}')
    try:
        record = json.loads(record_file.read_text())
        version, existing, num_files = record['version'], record['settings'], record['num_files']
        layouts = existing['layouts']
    except (ValueError, KeyError, TypeError) as error:
        raise FileExistsError(f'{record_file} is not a record of this program ({error!r}); {advice}') from error
    wanted = json.loads(json.dumps(asdict(settings)))
    different = [
        f'{key}={existing.get(key)} (wanted {value})'
        for key, value in wanted.items()
        if key != 'layouts' and existing.get(key) != value
    ]
    if version != _VERSION:
        different.append(f'version={version} (wanted {_VERSION})')
    if not set(wanted['layouts']) <= set(layouts):
        different.append(f'layouts={layouts} (wanted {wanted["layouts"]})')
    if different:
        raise FileExistsError(f'out_dir {out_dir} holds shapes with {", ".join(different)}; {advice}')
    present = _count_files(out_dir) - 1
    if present < num_files:
        raise FileExistsError(f'out_dir {out_dir} has {present} of its {num_files} files left; remove it and run again')
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    defaults = ShapesSettings()
    parser = argparse.ArgumentParser(
        prog='mmkerv shapes',
        description='Write small scenes of textured circles, rectangles and triangles in official layouts. '
        'The same settings give the same bytes; an existing data set with these settings is kept.',
    )
    parser.add_argument('out_dir', help='folder to make')
    parser.add_argument('--num-train', type=int, default=defaults.num_train, help='training scenes (%(default)s)')
    parser.add_argument('--num-val', type=int, default=defaults.num_val, help='held-out scenes (%(default)s)')
    parser.add_argument('--size', type=int, default=defaults.size, help='height and width in pixels (%(default)s)')
    parser.add_argument('--seed', type=int, default=defaults.seed, help='seed of all scenes (%(default)s)')
    parser.add_argument(
        '--max-shapes', type=int, default=defaults.max_shapes, help='most shapes in a scene (%(default)s)'
    )
    parser.add_argument(
        '--layout', nargs='+', choices=LAYOUTS, default=defaults.layouts, help='layouts to write (all but dota)'
    )
    args = vars(parser.parse_args(argv))
    out_dir, layouts = args.pop('out_dir'), args.pop('layout')
    start = time.perf_counter()
    try:
        settings = ShapesSettings(**args, layouts=layouts)
        written = write_shapes(out_dir, settings)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    names = ', '.join(settings.layouts)
    if written:
        seconds = time.perf_counter() - start
        print(
            f'Wrote {settings.num_train} train and {settings.num_val} val scenes to {out_dir} ({names}) '
            f'in {seconds:.1f} s'
        )
    else:
        print(f'{out_dir} already holds these scenes ({names}); nothing to do')
    return 0


if __name__ == '__main__':
    sys.exit(main())
