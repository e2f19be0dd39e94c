"""Outlines of masks, and the scenes of the data set of shapes."""

import numpy as np
import pytest

from mmkerv.datasets import scenes
from mmkerv.datasets.layouts import class_mask
from mmkerv.datasets.outlines import has_hole, signed_area, trace_outlines
from mmkerv.datasets.scenes import CLASSES, MAX_HIDDEN, draw_scene, draw_single


class TestOutlines:
    def test_areas_of_outlines_sum_to_the_pixels_of_random_masks(self):
        rng = np.random.default_rng(0)
        for _ in range(200):
            mask = rng.random(rng.integers(1, 10, 2)) < 0.6
            assert sum(map(signed_area, trace_outlines(mask))) == mask.sum()

    def test_pixels_that_touch_only_at_a_corner_are_two_parts(self):
        assert sorted(outline.tolist() for outline in trace_outlines(np.eye(2, dtype=bool))) == [
            [[0, 0], [1, 0], [1, 1], [0, 1]],
            [[1, 1], [2, 1], [2, 2], [1, 2]],
        ]

    def test_a_hole_has_an_outline_of_its_own(self):
        ring = np.ones((3, 3), dtype=bool)
        assert not has_hole(ring)
        ring[1, 1] = False
        assert has_hole(ring)
        assert sorted(map(signed_area, trace_outlines(ring))) == [-1, 9]

    def test_filling_the_outlines_restores_the_mask(self):
        coco_mask = pytest.importorskip('pycocotools.mask', reason='pycocotools is not installed')
        rng = np.random.default_rng(0)
        for _ in range(200):
            height, width = rng.integers(1, 10, 2).tolist()
            mask, filled = rng.random((height, width)) < 0.6, np.zeros((height, width), dtype=int)
            for outline in trace_outlines(mask):
                polygon = coco_mask.frPyObjects([outline.ravel().tolist()], height, width)
                filled += coco_mask.decode(polygon)[..., 0].astype(int) * int(np.sign(signed_area(outline)))
            assert np.array_equal(filled, mask)


class TestScenes:
    @pytest.mark.parametrize('size', [32, 160])
    def test_every_shape_stays_mostly_visible(self, size):
        counts, overlaps = set(), 0
        for seed in range(40):
            scene = draw_scene(np.random.default_rng(seed), size, max_shapes=5)
            counts.add(len(scene.labels))
            assert set(np.unique(scene.instances)) == set(range(len(scene.labels) + 1))
            for i in range(len(scene.labels)):
                mask = scene.mask(i)
                assert not has_hole(mask)
                assert mask.sum() > (1 - MAX_HIDDEN) * 36  # the smallest triangle covers more than 36 pixels
                overlaps += not np.array_equal(_convex_hull(mask), mask)
        assert overlaps and min(counts) == 1 and max(counts) <= 5
        assert size == 32 or counts == {1, 2, 3, 4, 5}

    def test_instances_match_the_image(self, monkeypatch):
        """Without textures and noise, the visible pixels of a shape have one colour, except for its blended border."""
        monkeypatch.setattr(scenes, '_texture', lambda rng, size: np.zeros((size, size)))
        monkeypatch.setattr(scenes, '_to_image', lambda rng, canvas: canvas)
        for seed in range(40):
            scene = draw_scene(np.random.default_rng(seed), 160, max_shapes=5)
            for i in range(len(scene.labels)):
                colours = scene.image[scene.mask(i) & (class_mask(scene) != 255)]
                assert len(colours) and np.allclose(colours, colours[0])

    def test_a_single_shape_has_the_requested_class(self):
        for label in range(len(CLASSES)):
            scene = draw_single(np.random.default_rng(0), 32, label)
            assert scene.labels == (label,) and scene.instances.max() == 1

    def test_classes_differ_in_outline(self):
        """A circle of any size fills pi/4 of its box, a triangle at most about half."""
        fill = {}
        for label, name in enumerate(CLASSES):
            masks = [draw_single(np.random.default_rng(seed), 128, label).mask(0) for seed in range(20)]
            fill[name] = [m.sum() / (np.ptp(np.nonzero(m)[0]) + 1) / (np.ptp(np.nonzero(m)[1]) + 1) for m in masks]
        assert np.allclose(fill['circle'], np.pi / 4, atol=0.02)
        assert max(fill['triangle']) < 0.6
        assert min(fill['rectangle']) > 0.4 and max(fill['rectangle']) > 0.9


def _convex_hull(mask: np.ndarray) -> np.ndarray:
    """Fill each row and column between its first and last pixel; a convex mask is not changed."""
    across = np.maximum.accumulate(mask, 1) & np.maximum.accumulate(mask[:, ::-1], 1)[:, ::-1]
    down = np.maximum.accumulate(mask, 0) & np.maximum.accumulate(mask[::-1], 0)[::-1]
    return across | down
