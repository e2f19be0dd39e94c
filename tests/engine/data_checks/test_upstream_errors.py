"""Broken images, masks and annotation files, read as training reads them."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from PIL import Image
from torch.utils.data import DataLoader

from mmkerv.engine import apply_patches
from mmkerv.engine.data_checks.label_range_hook import check_sample, class_numbers
from mmkerv.errors import DataError

LOAD = [dict(type='LoadImageFromFile')]


def picture(file: Path, shape: tuple = (20, 30, 3), high: int = 255) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, high + 1, shape, np.uint8)
    Image.fromarray(values).save(file)
    return file


@pytest.fixture
def libraries():
    """Apply the patches for a library."""

    def use(scope: str) -> None:
        apply_patches(scope)
        init_default_scope(scope)

    return use


def classes(root: Path) -> torch.utils.data.Dataset:
    from mmpretrain.datasets import CustomDataset

    return CustomDataset(data_root=str(root), pipeline=[*LOAD, dict(type='PackInputs')])


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('kind', ['text', 'empty', 'cut head', 'gone'])
def test_image_that_cannot_be_read_is_named(tmp_path, libraries, kind, workers):
    pytest.importorskip('mmpretrain')
    libraries('mmpretrain')
    file = picture(tmp_path / 'a' / '0.jpg')
    dataset = classes(tmp_path)
    content = {'text': b'no image', 'empty': b'', 'cut head': file.read_bytes()[:30], 'gone': b''}[kind]
    file.write_bytes(content)
    if kind == 'gone':
        file.unlink()
    message = 'does not exist. Put it there' if kind == 'gone' else 'it is damaged, or not an image'
    with pytest.raises(DataError) as caught:
        next(iter(DataLoader(dataset, num_workers=workers)))
    last = str(caught.value).strip().splitlines()[-1]
    assert f"image '{file}' of CustomDataset" in last and message in last


def test_truncated_jpeg_is_refused_or_decoded_in_part(tmp_path, libraries):
    """It depends on the version of OpenCV; the part that is decoded is right."""
    pytest.importorskip('mmpretrain')
    libraries('mmpretrain')
    file = picture(tmp_path / 'a' / '0.jpg', (64, 64, 3))
    dataset = classes(tmp_path)
    whole = dataset[0]['inputs']
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    try:
        cut = dataset[0]['inputs']
    except DataError as error:
        assert str(file) in str(error)
    else:
        assert torch.equal(whole[:, :16], cut[:, :16]) and not torch.equal(whole[:, -8:], cut[:, -8:])


def test_other_errors_of_a_pipeline_keep_their_type(tmp_path, libraries):
    pytest.importorskip('mmpretrain')
    libraries('mmpretrain')
    picture(tmp_path / 'a' / '0.jpg')
    dataset = classes(tmp_path)
    dataset.pipeline = lambda info: 1 / 0
    with pytest.raises(ZeroDivisionError):
        dataset[0]


def masks(root: Path, **changes) -> torch.utils.data.Dataset:
    from mmseg.datasets import BaseSegDataset

    pipeline = [*LOAD, dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
    prefix = dict(img_path='img', seg_map_path='seg')
    metainfo = dict(classes=('a', 'b'), palette=[[0] * 3, [1] * 3])
    options = dict(data_root=str(root), data_prefix=prefix, pipeline=pipeline, metainfo=metainfo)
    return BaseSegDataset(**{**options, **changes})


@pytest.mark.parametrize(
    ('shape', 'message'),
    [
        ((20, 31), r'is 20 x 31 and its image .* 20 x 30 \(height x width\): the sizes must be equal'),
        ((30, 20), r'is 30 x 20 and its image'),
        ((20, 30, 3), r'has the shape \(20, 30, 3\) of a colour picture'),
        (None, r'cannot be read .*it is damaged, or not an image'),
        ((), r'does not exist; check data_prefix\.seg_map_path'),
    ],
)
def test_masks_that_do_not_fit_are_named(tmp_path, libraries, shape, message):
    pytest.importorskip('mmseg')
    libraries('mmseg')
    picture(tmp_path / 'img' / '0.jpg')
    mask = picture(tmp_path / 'seg' / '0.png', shape or (20, 30), high=1)
    dataset = masks(tmp_path)
    if shape is None:
        mask.write_bytes(mask.read_bytes()[:50])
    if shape == ():
        mask.unlink()
    with pytest.raises(DataError, match=rf"mask '{mask}' .*{message}"):
        dataset[0]


def test_palette_masks_are_read_as_class_numbers(tmp_path, libraries):
    pytest.importorskip('mmseg')
    libraries('mmseg')
    picture(tmp_path / 'img' / '0.jpg')
    mask = picture(tmp_path / 'seg' / '0.png', (20, 30), high=1)
    values = np.array(Image.open(mask))
    coloured = Image.fromarray(values, 'P')
    coloured.putpalette([9, 8, 7, 200, 100, 50])
    coloured.save(mask)
    sample = masks(tmp_path)[0]
    assert np.array_equal(sample['data_samples'].gt_sem_seg.data[0].numpy(), values)


@pytest.mark.parametrize(('high', 'ignored', 'passes'), [(1, 255, True), (2, 255, False), (255, 255, False)])
def test_mask_labels_outside_the_classes_of_the_head_are_refused(tmp_path, libraries, high, ignored, passes):
    pytest.importorskip('mmseg')
    libraries('mmseg')
    picture(tmp_path / 'img' / '0.jpg')
    mask = picture(tmp_path / 'seg' / '0.png', (20, 30), high)
    sample = masks(tmp_path)[0]
    if passes:
        check_sample(sample['data_samples'], 2, ignored, sample['inputs'])
        sample['data_samples'].gt_sem_seg.data[0, 0, 0] = ignored
        check_sample(sample['data_samples'], 2, ignored, sample['inputs'])
        with pytest.raises(DataError, match=rf"the mask '{mask}' is \(20, 30\) after the pipeline and its image"):
            check_sample(sample['data_samples'], 2, ignored, sample['inputs'][:, :10])
        return
    with pytest.raises(DataError, match=rf"gt_sem_seg of '{mask}' holds the label \d+, and the head knows 2 classes"):
        check_sample(sample['data_samples'], 2, ignored, sample['inputs'])


def test_labels_of_images_and_boxes_are_checked():
    from mmengine.structures import BaseDataElement, InstanceData

    image = BaseDataElement(metainfo={'img_path': 'a.jpg'}, gt_label=torch.tensor([2]))
    boxes = BaseDataElement(
        metainfo={'img_path': 'a.jpg'}, gt_instances=InstanceData(labels=torch.tensor([0, 2]), bboxes=torch.rand(2, 4))
    )
    for sample in (image, boxes):
        check_sample(sample, 3)
        check_sample(sample, None)
        with pytest.raises(DataError, match=r"of 'a\.jpg' holds the label 2, and the head knows 2 classes \(0 to 1\)"):
            check_sample(sample, 2)


def test_number_of_classes_is_read_from_the_head():
    class Head(torch.nn.Module):
        num_classes, ignore_index = 3, 255

    class Model(torch.nn.Module):
        pass

    for path in ('decode_head', 'bbox_head', 'head', 'roi_head'):
        model = Model()
        setattr(model, path, Head())
        if path == 'roi_head':
            model.roi_head = Model()
            model.roi_head.bbox_head = torch.nn.ModuleList([Head(), Head()])
        assert class_numbers(model) == (3, 255)


def coco(root: Path, **changes) -> torch.utils.data.Dataset:
    from mmdet.datasets import CocoDataset

    pipeline = [*LOAD, dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]
    options = dict(ann_file='a.json', data_prefix=dict(img='img/'), metainfo=dict(classes=('cat',)), pipeline=pipeline)
    return CocoDataset(data_root=str(root), **{**options, **changes})


def annotations(root: Path, **box) -> None:
    image = {'id': 1, 'file_name': '0.jpg', 'height': 20, 'width': 30}
    boxes = [{'id': i, 'image_id': 1, 'category_id': 1, 'bbox': [1, 2, 8, 4], 'area': 32} for i in range(2)]
    boxes[1].update(box)
    whole = {'images': [image], 'categories': [{'id': 1, 'name': 'cat'}], 'annotations': boxes}
    (root / 'a.json').write_text(json.dumps(whole))


@pytest.fixture
def detection(tmp_path, libraries):
    pytest.importorskip('mmdet')
    libraries('mmdet')
    picture(tmp_path / 'img' / '0.jpg')
    annotations(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ('box', 'kept'),
    [({}, 2), ({'bbox': [1, 2, 0, 4]}, 1), ({'area': 0}, 1), ({'category_id': 9}, 1), ({'image_id': 9}, 1)],
)
def test_boxes_that_are_left_out_are_logged(detection, monkeypatch, box, kept):
    lines = []
    monkeypatch.setattr('mmkerv.engine.data_checks.upstream_errors.log', lambda *line: lines.append(line))
    annotations(detection, **box)
    sample = coco(detection)[0]
    assert len(sample['data_samples'].gt_instances) == kept
    notes = [text for text, level in lines if level == logging.WARNING]
    assert [text for text, level in lines if level == logging.INFO] == [
        f'mmkerv: {detection}/a.json: 1 images, 2 objects'
    ]
    assert len(notes) == (kept == 1) and all('a.json: 1 of 2' in note and 'left out' in note for note in notes)


@pytest.mark.parametrize('box', [{'bbox': [1, 2, float('nan'), 4]}, {'bbox': [float('inf'), 2, 3, 4]}])
def test_boxes_that_are_not_finite_are_refused(detection, box):
    annotations(detection, **box)
    with pytest.raises(DataError, match=r"a\.json': 1 of 2 boxes are NaN or infinite.* annotation 1 of image 1"):
        coco(detection)


@pytest.mark.parametrize('content', [b'{"images": [', b'', b'[]', b'\xff\xfe', b'[' * 100_000])
def test_annotation_file_that_is_not_json_is_named(detection, content):
    (detection / 'a.json').write_bytes(content)
    with pytest.raises(DataError, match=r"annotation file '.*a\.json' (is not complete JSON|must hold a JSON object)"):
        coco(detection)


def test_file_of_other_classes_is_refused(detection):
    with pytest.raises(DataError, match=r"lists none of the 2 classes .* \('bird', \.\.\.\), but 'cat'\. Set metainfo"):
        coco(detection, metainfo=dict(classes=('bird', 'dog')))


def test_a_data_set_without_a_sample_is_named(tmp_path, libraries):
    pytest.importorskip('mmpretrain')
    libraries('mmpretrain')
    from mmpretrain.datasets import CustomDataset

    (tmp_path / 'val.txt').touch()
    with pytest.raises(DataError, match=r"CustomDataset has no sample \(ann_file '.*val\.txt'.*filter_cfg"):
        CustomDataset(data_root=str(tmp_path), ann_file='val.txt', pipeline=[])


def test_training_stops_at_a_label_without_a_class_or_an_empty_data_set(tmp_path):
    from mmengine.structures import BaseDataElement

    from tests.engine.tiny_runner import TinyModel, tiny_runner

    class Labelled(TinyModel):
        def train_step(self, data, optim_wrapper):
            raise AssertionError('the loss is not reached')

    def batches(count):
        sample = BaseDataElement(metainfo={'img_path': 'a.jpg'}, gt_label=torch.tensor([7]))
        collate = {'type': 'pseudo_collate'}
        data = [{'inputs': torch.zeros(3, 8, 8), 'data_samples': sample}] * count
        sampler = {'type': 'DefaultSampler', 'shuffle': False}
        return {'dataset': data, 'batch_size': 1, 'num_workers': 0, 'sampler': sampler, 'collate_fn': collate}

    model = Labelled()
    model.head = torch.nn.Linear(1, 3)
    model.head.num_classes = 3
    for count, message in ((1, r"gt_label of 'a\.jpg' holds the label 7, and the head knows 3"), (0, 'has no image')):
        hooks = [{'type': 'mmkerv.LabelRangeHook'}]
        runner = tiny_runner(tmp_path, model, train_dataloader=batches(count), custom_hooks=hooks)
        with pytest.raises(DataError, match=message):
            runner.train()


def test_listed_image_that_does_not_exist_is_named(detection):
    (detection / 'img' / '0.jpg').unlink()
    with pytest.raises(DataError, match=r"image '.*0\.jpg' of CocoDataset does not exist"):
        coco(detection)[0]
