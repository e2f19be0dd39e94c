"""Layouts of the data set of shapes, read by upstream's dataset classes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmkerv.datasets.outlines import smallest_rectangle
from mmkerv.datasets.scenes import CLASSES

METAINFO = {'classes': CLASSES}


def coco_json(data: Path, split: str) -> dict:
    return json.loads((data / f'annotations/instances_{split}2017.json').read_text())


def voc_names(data: Path, split: str) -> list[str]:
    return (data / f'VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt').read_text().split()


def voc_mask(data: Path, name: str) -> Image.Image:
    return Image.open(data / f'VOCdevkit/VOC2012/SegmentationClass/{name}.png')


@pytest.mark.parametrize('split', ['train', 'val'])
class TestCoco:
    def test_files_and_annotations_are_complete(self, data, split, small):
        content = coco_json(data, split)
        assert set(content) == {'info', 'licenses', 'images', 'annotations', 'categories'}
        assert [(c['id'], c['name']) for c in content['categories']] == [(i + 1, n) for i, n in enumerate(CLASSES)]
        assert len(content['images']) == small[f'num_{split}']
        for image in content['images']:
            assert Image.open(data / f'{split}2017' / image['file_name']).size == (image['width'], image['height'])
        ids = [image['id'] for image in content['images']]
        assert len(set(ids)) == len(ids) and {a['image_id'] for a in content['annotations']} == set(ids)

    def test_ids_are_unique_over_splits(self, data, split):
        other = coco_json(data, {'train': 'val', 'val': 'train'}[split])
        for kind in ('images', 'annotations'):
            assert not {x['id'] for x in coco_json(data, split)[kind]} & {x['id'] for x in other[kind]}

    def test_pycocotools_agrees_with_boxes_areas_and_masks(self, data, split):
        coco_class = pytest.importorskip('pycocotools.coco', reason='pycocotools is not installed').COCO
        coco = coco_class(str(data / f'annotations/instances_{split}2017.json'))
        for name, image_id in zip(voc_names(data, split), sorted(coco.imgs), strict=True):
            classes, covered = np.array(voc_mask(data, name)), np.zeros((96, 96), dtype=int)
            for annotation in coco.imgToAnns[image_id]:
                assert annotation['iscrowd'] == 0
                mask = coco.annToMask(annotation).astype(bool)
                covered += mask
                rows, columns = np.nonzero(mask)
                box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
                assert annotation['bbox'] == box and annotation['area'] == mask.sum()
                polygons = np.concatenate(annotation['segmentation']).reshape(-1, 2)
                assert [*polygons.min(0), *np.ptp(polygons, axis=0)] == box
                assert set(np.unique(classes[mask])) <= {annotation['category_id'], 255}
                assert (classes[mask] == annotation['category_id']).mean() > 0.3
            assert covered.max() == 1
            assert set(np.unique(classes[covered == 0])) <= {0, 255}


class TestVoc:
    def test_masks_are_palette_images_of_the_classes(self, data):
        for name in voc_names(data, 'trainval'):
            mask = voc_mask(data, name)
            assert mask.mode == 'P' and mask.size == (96, 96)
            palette = mask.getpalette()
            assert palette[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] and palette[-3:] == [224, 224, 192]
            assert {0, 255} < set(np.unique(mask)) <= {0, 1, 2, 3, 255}
            assert Image.open(data / f'VOCdevkit/VOC2012/JPEGImages/{name}.jpg').size == (96, 96)

    def test_ignored_contours_separate_the_classes(self, data):
        for name in voc_names(data, 'trainval'):
            mask = np.array(voc_mask(data, name))
            for a, b in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1]), (mask[1:, 1:], mask[:-1, :-1])):
                assert ((a == b) | (a == 255) | (b == 255)).all()

    def test_lists_of_the_splits(self, data, small):
        train, val = voc_names(data, 'train'), voc_names(data, 'val')
        assert (len(train), len(val)) == (small['num_train'], small['num_val'])
        assert voc_names(data, 'trainval') == train + val and not set(train) & set(val)


def dota_shapes(data: Path, split: str) -> dict[str, list[tuple[np.ndarray, str, str]]]:
    """Corners, class and difficulty of every shape, by the name of the image."""
    shapes = {}
    for file in sorted((data / 'DOTA' / split / 'labelTxt').iterdir()):
        lines = [line.split(' ') for line in file.read_text().splitlines()]
        shapes[file.stem] = [(np.array(line[:8], dtype=float).reshape(4, 2), *line[8:]) for line in lines]
    return shapes


def distances(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distance of each point from each side of a rectangle, positive inside."""
    sides = np.roll(corners, -1, axis=0) - corners
    to = points[:, None] - corners
    return (sides[:, 0] * to[..., 1] - sides[:, 1] * to[..., 0]) / np.linalg.norm(sides, axis=1)


@pytest.mark.parametrize('split', ['train', 'val'])
class TestDota:
    def test_images_are_those_of_the_other_layouts_without_loss(self, data, split, small):
        names = sorted(path.stem for path in (data / 'DOTA' / split / 'images').glob('*.png'))
        assert names == list(dota_shapes(data, split)) and len(names) == small[f'num_{split}']
        for name, other in zip(names, coco_json(data, split)['images'], strict=True):
            image, jpeg = (
                np.array(Image.open(path), dtype=float)
                for path in (data / f'DOTA/{split}/images/{name}.png', data / f'{split}2017' / other['file_name'])
            )
            assert 0 < np.abs(image - jpeg).mean() < 20

    def test_rectangles_are_tight_around_the_shapes(self, data, split):
        content = coco_json(data, split)
        for image, shapes in zip(content['images'], dota_shapes(data, split).values(), strict=True):
            own = [a for a in content['annotations'] if a['image_id'] == image['id']]
            for annotation, (corners, name, difficulty) in zip(own, shapes, strict=True):
                assert (CLASSES[annotation['category_id'] - 1], '0') == (name, difficulty)
                sides = np.roll(corners, -1, axis=0) - corners
                assert abs((sides * np.roll(sides, 1, axis=0)).sum(axis=1)).max() < 0.2 * np.abs(sides).max()
                points = np.concatenate(annotation['segmentation']).reshape(-1, 2)
                # Every side touches, and nothing is outside; coordinates have one decimal.
                assert np.abs(distances(corners, points).min(axis=0)).max() < 0.1
                x, y = corners.T
                area = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2
                assert annotation['area'] <= area * 1.01 <= 1.02 * annotation['bbox'][2] * annotation['bbox'][3]
                if name == 'circle':
                    assert sorted({*x, *y}) == sorted({*points.min(axis=0), *points.max(axis=0)})
                # A rectangle is covered by its box, but for its pixel border and what hides it.
                assert name != 'rectangle' or annotation['area'] > 0.6 * area


def test_a_rotated_rectangle_is_found_exactly():
    corners = np.array([(30.0, 10.0), (50.0, 25.0), (38.0, 41.0), (18.0, 26.0)])
    inside = np.array([corners.T @ w for w in np.random.default_rng(0).dirichlet(np.ones(4), 50)])
    found = smallest_rectangle(np.concatenate([inside, corners[::-1]]))
    assert np.allclose(np.roll(found, -int(np.argmin(np.abs(found - corners[0]).sum(1))), axis=0), corners)


def test_pictures_are_in_folders_by_class(data, small):
    for split in ('train', 'val'):
        folders = {folder.name: len(list(folder.glob('*.jpg'))) for folder in (data / split).iterdir()}
        assert set(folders) == set(CLASSES)
        assert sum(folders.values()) == small[f'num_{split}'] and max(folders.values()) - min(folders.values()) <= 1


class TestUpstreamDatasets:
    @pytest.mark.parametrize('split', ['train', 'val'])
    def test_mmdet_reads_the_coco_layout(self, data, split, small):
        pytest.importorskip('mmdet', reason='mmdet is not installed')
        from mmdet.datasets import CocoDataset

        steps = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True}]
        dataset = CocoDataset(
            data_root=str(data),
            ann_file=f'annotations/instances_{split}2017.json',
            data_prefix={'img': f'{split}2017/'},
            metainfo=METAINFO,
            pipeline=[{**step, 'type': f'mmdet.{step["type"]}'} for step in steps],
        )
        assert len(dataset) == small[f'num_{split}']
        annotations = coco_json(data, split)['annotations']
        assert sum(len(dataset[i]['gt_bboxes']) for i in range(len(dataset))) == len(annotations)
        assert sum(dataset[i]['gt_masks'].areas.sum() for i in range(len(dataset))) == sum(
            annotation['area'] for annotation in annotations
        )

    def test_mmdet_gives_the_ground_truth_an_ap_of_1(self, data):
        pytest.importorskip('mmdet', reason='mmdet is not installed')
        import torch
        from mmdet.evaluation import CocoMetric

        content = coco_json(data, 'val')
        metric = CocoMetric(ann_file=str(data / 'annotations/instances_val2017.json'), metric='bbox')
        metric.dataset_meta = METAINFO
        for image in content['images']:
            own = [a for a in content['annotations'] if a['image_id'] == image['id']]
            boxes = torch.tensor([a['bbox'] for a in own], dtype=torch.float32)
            boxes[:, 2:] += boxes[:, :2]
            labels = torch.tensor([a['category_id'] - 1 for a in own])
            prediction = {'bboxes': boxes, 'scores': torch.ones(len(own)), 'labels': labels}
            metric.process({}, [{'img_id': image['id'], 'ori_shape': (96, 96), 'pred_instances': prediction}])
        assert metric.evaluate(size=len(content['images']))['coco/bbox_mAP'] == 1

    @pytest.mark.parametrize('split', ['train', 'val'])
    def test_mmrotate_reads_the_dota_layout(self, data, split, small):
        pytest.importorskip('mmrotate', reason='mmrotate is not installed')
        from mmrotate.datasets import DOTADataset
        from mmrotate.structures.bbox import QuadriBoxes

        dataset = DOTADataset(
            data_root=str(data / 'DOTA'),
            ann_file=f'{split}/labelTxt/',
            data_prefix={'img_path': f'{split}/images/'},
            metainfo=METAINFO,
            pipeline=[
                {'type': 'mmdet.LoadImageFromFile'},
                {'type': 'mmdet.LoadAnnotations', 'with_bbox': True, 'box_type': 'qbox'},
                {'type': 'mmrotate.ConvertBoxType', 'box_type_mapping': {'gt_bboxes': 'rbox'}},
            ],
        )
        assert len(dataset) == small[f'num_{split}']
        for sample in dataset:
            shapes = dota_shapes(data, split)[sample['img_id']]
            assert [CLASSES[label] for label in sample['gt_bboxes_labels']] == [name for _, name, _ in shapes]
            corners = sample['gt_bboxes'].convert_to('qbox')
            assert isinstance(corners, QuadriBoxes)
            for found, (wanted, _, _) in zip(corners.tensor.view(-1, 4, 2).numpy(), shapes, strict=True):
                assert max(np.abs(found - point).sum(1).min() for point in wanted) < 0.5

    @pytest.mark.parametrize('kind', ['PascalVOCDataset', 'BaseSegDataset'])
    def test_mmseg_reads_the_voc_layout(self, data, kind, small):
        pytest.importorskip('mmseg', reason='mmseg is not installed')
        import mmseg.datasets

        names = {'classes': ('background', *CLASSES)}
        own = {'metainfo': names, 'img_suffix': '.jpg', 'seg_map_suffix': '.png'} if kind == 'BaseSegDataset' else {}
        dataset = getattr(mmseg.datasets, kind)(
            data_root=str(data / 'VOCdevkit/VOC2012'),
            data_prefix={'img_path': 'JPEGImages', 'seg_map_path': 'SegmentationClass'},
            ann_file='ImageSets/Segmentation/val.txt',
            pipeline=[{'type': 'mmseg.LoadImageFromFile'}, {'type': 'mmseg.LoadAnnotations'}],
            **own,
        )
        assert len(dataset) == small['num_val']
        for sample, name in zip(dataset, voc_names(data, 'val'), strict=True):
            assert sample['img'].shape == (96, 96, 3)
            assert np.array_equal(sample['gt_seg_map'], np.array(voc_mask(data, name)))

    @pytest.mark.parametrize('kind', ['ImageNet', 'CustomDataset'])
    def test_mmpretrain_reads_the_folders_by_class(self, data, kind, small):
        pytest.importorskip('mmpretrain', reason='mmpretrain is not installed')
        import mmpretrain.datasets

        own = {'metainfo': METAINFO} if kind == 'ImageNet' else {}
        dataset = getattr(mmpretrain.datasets, kind)(
            data_root=str(data), data_prefix='val', pipeline=[{'type': 'mmpretrain.LoadImageFromFile'}], **own
        )
        assert len(dataset) == small['num_val'] and tuple(dataset.CLASSES) == CLASSES
        for sample in dataset:
            assert CLASSES[sample['gt_label']] in sample['img_path'] and sample['img'].shape == (96, 96, 3)
