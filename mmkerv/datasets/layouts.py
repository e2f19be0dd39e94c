"""Writers of scenes in the official folder layouts of COCO 2017, PASCAL VOC 2012, DOTA and ImageNet."""

import json
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from mmkerv.datasets.outlines import smallest_rectangle, trace_outlines
from mmkerv.datasets.scenes import CLASSES, Scene

# First image and annotation id of each split; ids of the two splits never coincide.
FIRST_ID = {'train': 1, 'val': 1_000_001}
# Class of the pixels that VOC ignores.
_CONTOUR = 255
_JPEG_QUALITY = 90


class CocoWriter:
    """Writer of scenes as ``{train,val}2017/*.jpg`` and ``annotations/instances_{train,val}2017.json``.

    Each shape has one annotation of its visible pixels: the polygons follow the pixels' borders exactly (one polygon
    for each part that occlusion leaves), ``area`` is the number of pixels, and ``bbox`` the smallest box
    [x, y, width, height] around them, in pixels.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images: dict[str, list[dict]] = {}
        self.annotations: dict[str, list[dict]] = {}

    def add(self, split: str, index: int, scene: Scene) -> None:
        """Write the image of scene ``index`` of a split and keep its annotations for :meth:`close`."""
        image_id = FIRST_ID[split] + index
        file_name = f'{image_id:012d}.jpg'
        _save_jpeg(scene.image, self.root / f'{split}2017' / file_name)
        height, width = scene.instances.shape
        self.images.setdefault(split, []).append(
            {'id': image_id, 'file_name': file_name, 'height': height, 'width': width, 'license': 1}
        )
        annotations = self.annotations.setdefault(split, [])
        for i, label in enumerate(scene.labels):
            annotation_id = FIRST_ID[split] + len(annotations)
            annotations.append(
                dict(id=annotation_id, image_id=image_id, category_id=label + 1, iscrowd=0, **annotate(scene.mask(i)))
            )

    def close(self) -> None:
        """Write the annotation files."""
        for split, images in self.images.items():
            content = {
                'info': {'description': f'Shapes, {split} split, written by mmkerv.datasets.shapes', 'version': '1.0'},
                'licenses': [{'id': 1, 'name': 'CC0 1.0', 'url': 'https://creativecommons.org/publicdomain/zero/1.0/'}],
                'images': images,
                'annotations': self.annotations[split],
                'categories': [{'id': i, 'name': name, 'supercategory': 'shape'} for i, name in enumerate(CLASSES, 1)],
            }
            path = self.root / 'annotations' / f'instances_{split}2017.json'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content, separators=(',', ':')))


class VocWriter:
    """Writer of scenes as ``VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}``.

    Masks are palette images with the colours of VOC: 0 is the background, ``1 + index`` a class of
    :data:`~mmkerv.datasets.scenes.CLASSES`, and 255 (ignored) any pixel with a neighbour of another shape or of the
    background.
    """

    def __init__(self, root: Path) -> None:
        self.root = root / 'VOCdevkit' / 'VOC2012'
        self.names: dict[str, list[str]] = {}

    def add(self, split: str, index: int, scene: Scene) -> None:
        """Write the image and the mask of scene ``index`` of a split."""
        name = f'{split}_{index + 1:06d}'
        self.names.setdefault(split, []).append(name)
        _save_jpeg(scene.image, self.root / 'JPEGImages' / f'{name}.jpg')
        mask = Image.fromarray(class_mask(scene))
        mask.putpalette(voc_palette().tobytes())
        path = self.root / 'SegmentationClass' / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        mask.save(path)

    def close(self) -> None:
        """Write the lists of the splits: train, val and trainval."""
        folder = self.root / 'ImageSets' / 'Segmentation'
        folder.mkdir(parents=True, exist_ok=True)
        for split, names in {**self.names, 'trainval': chain(*self.names.values())}.items():
            (folder / f'{split}.txt').write_text(''.join(f'{name}\n' for name in names))


class DotaWriter:
    """Writer of scenes as ``DOTA/{train,val}/images/*.png`` and ``DOTA/{train,val}/labelTxt/*.txt``.

    Each line of a text is a shape: the corners x1 y1 ... x4 y4 of the smallest rectangle around its visible pixels, at
    any angle and clockwise, its class, and the difficulty 0. A circle has no angle; its rectangle is upright. The two
    lines at the head of DOTA's own files (``imagesource``, ``gsd``) are left out: readers of split images expect none.
    """

    def __init__(self, root: Path) -> None:
        self.root = root / 'DOTA'

    def add(self, split: str, index: int, scene: Scene) -> None:
        """Write the image and the text of scene ``index`` of a split."""
        name = f'P{FIRST_ID[split] + index:07d}'
        image, text = (self.root / split / part for part in (f'images/{name}.png', f'labelTxt/{name}.txt'))
        for path in (image, text):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(image)
        lines = [
            f'{" ".join(f"{value:.1f}" for value in rotated_box(scene, i).ravel())} {CLASSES[label]} 0\n'
            for i, label in enumerate(scene.labels)
        ]
        text.write_text(''.join(lines))

    def close(self) -> None:
        """Do nothing; every image has its text."""


class ImageNetWriter:
    """Writer of pictures of single shapes as ``{train,val}/<class>/*.jpg``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, split: str, index: int, scene: Scene) -> None:
        """Write picture ``index`` of a split into the folder of its class."""
        name = CLASSES[scene.labels[0]]
        _save_jpeg(scene.image, self.root / split / name / f'{name}_{index + 1:06d}.jpg')

    def close(self) -> None:
        """Do nothing; the folders are the labels."""


def annotate(mask: np.ndarray) -> dict:
    """Return COCO's ``bbox``, ``area`` and ``segmentation`` of a mask (H, W) without holes.

    Example:
        >>> mask = np.zeros((6, 8), dtype=bool)
        >>> mask[2:4, 3:7] = True
        >>> annotate(mask)
        {'bbox': [3, 2, 4, 2], 'area': 8, 'segmentation': [[3, 2, 7, 2, 7, 4, 3, 4]]}
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)).tolist(), np.flatnonzero(mask.any(axis=0)).tolist()
    return {
        'bbox': [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1],
        'area': int(mask.sum()),
        'segmentation': [outline.ravel().tolist() for outline in trace_outlines(mask)],
    }


def rotated_box(scene: Scene, index: int) -> np.ndarray:
    """Return the corners (4, 2), as (x, y), of the rectangle around the visible pixels of a shape.

    Example:
        >>> from mmkerv.datasets.scenes import draw_single
        >>> rotated_box(draw_single(np.random.default_rng(0), size=32, label=1), 0).shape
        (4, 2)
    """
    corners = np.concatenate(trace_outlines(scene.mask(index)))
    if CLASSES[scene.labels[index]] != 'circle':
        return smallest_rectangle(corners)
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=float)


def class_mask(scene: Scene) -> np.ndarray:
    """Return VOC's class of each pixel (H, W), uint8: 0 for the background, ``1 + label``, 255 on the contours."""
    classes = np.array([0, *(label + 1 for label in scene.labels)], dtype=np.uint8)[scene.instances]
    height, width = scene.instances.shape
    padded = np.pad(scene.instances, 1, mode='edge')
    for dy in range(3):
        for dx in range(3):
            classes[padded[dy : dy + height, dx : dx + width] != scene.instances] = _CONTOUR
    return classes


def voc_palette() -> np.ndarray:
    """Return the colours of PASCAL VOC, (256, 3) uint8: bits 0, 3, 6 of the index are the high bits of red, and so on.

    Example:
        >>> voc_palette()[[0, 1, 2, 3, 255]].tolist()
        [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [224, 224, 192]]
    """
    index = np.arange(256)[:, None]
    bits = [(index >> (3 * i) + np.arange(3) & 1) << (7 - i) for i in range(3)]
    return np.sum(bits, axis=0).astype(np.uint8)


def _save_jpeg(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=_JPEG_QUALITY)
