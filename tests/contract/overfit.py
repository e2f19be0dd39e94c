"""Eight real images of COCO and a config that overfits them, based on the demo's small RetinaNet."""

import json
from pathlib import Path

CONFIG = """
_base_ = 'mmkerv::demo/retinanet_coc_shapes.py'

model = dict(bbox_head=dict(num_classes=80, anchor_generator=dict(octave_base_scale=4)))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=({size}, {size}), keep_ratio=True),
    dict(type='PackDetInputs'),
]
eight = dict(_delete_=True, type='CocoDataset', data_root='{root}/', ann_file='{annotations}')
train_dataloader = dict(
    batch_size=8,
    dataset=dict(data_prefix=dict(img='train2017/'), pipeline=train_pipeline, **eight),
)
val_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img='train2017/'), pipeline={{{{_base_.test_pipeline}}}}, test_mode=True, **eight
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{annotations}')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs={iterations}, val_interval={iterations})
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=10),
    dict(type='CosineAnnealingLR', eta_min=0, begin=10, end={iterations}, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(interval={iterations}), logger=dict(interval=1))
"""


def choose_eight(source: Path, target: Path) -> None:
    """Write the annotations of the eight images with the fewest and then the largest objects, without crowds."""
    data = json.loads(source.read_text())
    objects: dict[int, list] = {}
    for annotation in data['annotations']:
        objects.setdefault(annotation['image_id'], []).append(annotation)

    def rank(image: dict) -> tuple[int, float]:
        own = objects.get(image['id'], [])
        return len(own), -sum(a['area'] for a in own) / (image['width'] * image['height'])

    usable = [i for i in data['images'] if objects.get(i['id']) and not any(a['iscrowd'] for a in objects[i['id']])]
    data['images'] = sorted(usable, key=rank)[:8]
    ids = {image['id'] for image in data['images']}
    data['annotations'] = [a for a in data['annotations'] if a['image_id'] in ids]
    target.write_text(json.dumps(data))


def write_overfit_config(coco: Path, folder: Path, size: int = 192, iterations: int = 80) -> Path:
    """Write the eight images' annotations and the config that overfits them; return the config."""
    annotations = folder / 'eight.json'
    choose_eight(coco / 'annotations' / 'instances_train2017.json', annotations)
    config = folder / 'overfit.py'
    config.write_text(CONFIG.format(root=coco, annotations=annotations, size=size, iterations=iterations))
    return config
