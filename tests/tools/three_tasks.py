"""Small data of the three tasks, for the configs in `both_kinds`."""

from pathlib import Path

from mmkerv.datasets.shapes import ShapesSettings, write_shapes

CONFIGS = Path(__file__).parent / 'both_kinds'
# Of each task, the `data_root` in the folder of the data.
FOLDERS = {'detection': 'shapes', 'segmentation': 'shapes/VOCdevkit/VOC2012', 'classification': 'imagenet'}

# Options that make the networks of these configs plain.
PLAIN = {
    'detection': ('model.backbone.conv_cfg=None', 'model.neck.conv_cfg=None', 'model.bbox_head.conv_cfg=None'),
    'segmentation': ('model.backbone.conv_cfg=None', 'model.decode_head.conv_cfg=None'),
    'classification': ('model.backbone.conv_cfg=None',),
}


def written_data(folder: Path, num_train: int = 4, num_val: int = 4) -> Path:
    settings = ShapesSettings(num_train=num_train, num_val=num_val, size=64)
    write_shapes(folder / 'shapes', settings, progress=False)
    write_shapes(folder / 'imagenet', settings, progress=False)
    return folder
