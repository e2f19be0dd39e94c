"""Configs, and commands with bad input that must end in one message."""

TRAIN, TEST = 'tools/train.py', 'tools/test.py'
FOLD, PUBLISH = 'tools/model_converters/reparameterize_model.py', 'tools/model_converters/publish_model.py'

CKCONV = 'tools/model_converters/ckconv_to_mmkerv.py'
DCLS = 'tools/model_converters/dcls_to_mmkerv.py'
RELEASED = 'tools/model_converters/unireplknet_to_released.py'
PLAIN = 'tools/model_converters/plain_to_mmkerv.py'

# A small classifier, built within a second.
CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmkerv'], allow_failed_imports=False)
data_root = {data!r}
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8, conv_cfg=dict(type='CoCConv'),
                  init_cfg=dict(type='Pretrained', checkpoint={weights!r}, prefix='backbone.')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', in_channels=64, num_classes=3),
)
train_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_root=data_root,
                 pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]),
)
val_dataloader = test_dataloader = train_dataloader
val_evaluator = test_evaluator = dict(type='Accuracy')
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
"""
# A segmentor whose head has an even kernel, for which a super kernel has no centre.
EVEN = """
default_scope = 'mmseg'
data_root = {data!r}
model = dict(
    type='EncoderDecoder',
    backbone=dict(type='ResNetV1c', depth=18, base_channels=8),
    decode_head=dict(type='FCNHead', in_channels=64, in_index=3, channels=8, num_classes=2, kernel_size=2,
                     conv_cfg=dict(type='mmkerv.CoCConv', dilate=True)),
)
train_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='BaseSegDataset', data_root=data_root, pipeline=[]),
)
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
"""

OPTIONS = '--cfg-options'
CONV = 'model.backbone.conv_cfg'
# Tool, arguments ({name} is a file, {out} the output folder), and words of the message.
BAD_INPUT = {
    'unknown argument': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, f'{CONV}.asociation=3'),
        (f'{CONV}: ', "'asociation'", "did you mean 'association'?", 'Its arguments are: ', f'{CONV}.ARGUMENT=VALUE'),
    ),
    'association < 1': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, f'{CONV}.association=0'),
        (f'{CONV}: association must be >= 1, got 0', f'{OPTIONS} {CONV}.ARGUMENT=VALUE'),
    ),
    'odd kernel_plus': (
        (FOLD, '{config.py}', '{good.pth}', '{out}/deploy.pth', OPTIONS, f'{CONV}.kernel_plus=3'),
        (f'{CONV}: kernel_plus must be even, got 3; use 2 or 4',),
    ),
    'even kernel with dilate': (
        (TRAIN, '{even.py}', '--work-dir', '{out}'),
        (
            'model.decode_head: kernel_size must be odd',
            'got 2',
            "type='mmkerv.Converted', model=dict(type='FCNHead', ...)",
        ),
    ),
    'unregistered operator': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, f'{CONV}.type=CoCConf'),
        (
            f"{CONV}.type: 'CoCConf' is neither an operator",
            "did you mean 'mmkerv.CoCConv'?",
            f'{OPTIONS} {CONV}.type=NAME',
        ),
    ),
    'misspelt key of a backbone': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, 'model.backbone.conv_cgf.type=CoCConv'),
        ("model.backbone.conv_cgf: ResNet has no argument 'conv_cgf'; did you mean 'conv_cfg'?",),
    ),
    'misspelt key of a network to fold': (
        (FOLD, '{config.py}', '{good.pth}', '{out}/deploy.pth', OPTIONS, 'model.head.num_clases=3'),
        ("model.head.num_clases: LinearClsHead has no argument 'num_clases'; did you mean 'num_classes'?",),
    ),
    'misspelt key of a hook': (
        (
            TRAIN,
            '{config.py}',
            '--work-dir',
            '{out}',
            OPTIONS,
            'default_hooks.logger.type=LoggerHook',
            'default_hooks.logger.intervall=3',
        ),
        ("default_hooks.logger.intervall: LoggerHook has no argument 'intervall'; did you mean 'interval'?",),
    ),
    'kernel size in conv_cfg': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, f'{CONV}.type=CKConv', f'{CONV}.kernel_size=7'),
        (f'{CONV}: CKConv gets kernel_size from the network', 'write kernel_extent=7'),
    ),
    'missing data root': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, 'data_root={absent}'),
        (
            'train_dataloader.dataset.data_root, val_dataloader.dataset.data_root: ',
            "'{absent}' does not exist",
            '--cfg-options data_root=DIR',
        ),
    ),
    'evaluation without data': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, 'val_dataloader=None'),
        ('the config has val_cfg and val_evaluator, but no val_dataloader', 'set the others to None'),
    ),
    'test without a test': (
        (TEST, '{config.py}', '{good.pth}', '--amp', '--work-dir', '{out}', OPTIONS, 'test_cfg=None'),
        ('the config has no test_cfg, which a test needs; write it',),
    ),
    'mixed precision without an optimizer': (
        (TRAIN, '{config.py}', '--amp', '--work-dir', '{out}', OPTIONS, 'optim_wrapper=None'),
        ('the config has no optim_wrapper, which a training needs; write it',),
    ),
    'learning rate of no batch size': (
        (TRAIN, '{config.py}', '--auto-scale-lr', '--work-dir', '{out}', OPTIONS, 'auto_scale_lr=None'),
        ('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config',),
    ),
    'missing checkpoint to test': (
        (TEST, '{config.py}', '{absent.pth}', '--work-dir', '{out}'),
        ("checkpoint '{absent.pth}' does not exist; give the path of a .pth file",),
    ),
    'missing checkpoint to resume': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', '--resume', '{absent.pth}'),
        ("checkpoint '{absent.pth}' does not exist; give the path of a .pth file",),
    ),
    'missing checkpoint of the backbone': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, 'model.backbone.init_cfg.checkpoint={absent.pth}'),
        ("checkpoint '{absent.pth}' does not exist; give the path of a .pth file",),
    ),
    'missing checkpoint to fold': (
        (FOLD, '{config.py}', '{absent.pth}', '{out}/deploy.pth'),
        ("checkpoint '{absent.pth}' does not exist; give the path of a .pth file",),
    ),
    'missing checkpoint to publish': (
        (PUBLISH, '{absent.pth}', '{out}/published.pth'),
        ("checkpoint '{absent.pth}' does not exist; give the path of a .pth file",),
    ),
    'missing config to train': (
        (TRAIN, '{absent}', '--work-dir', '{out}'),
        ("config '{absent}' does not exist; give the path of a config file",),
    ),
    'checkpoint of another network to test': (
        (TEST, '{config.py}', '{other.pth}', '--work-dir', '{out}'),
        ("checkpoint '{other.pth}' is not of the network of the config", 'missing (backbone.conv1', 'Give the config'),
    ),
    'checkpoint of another network to resume': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', '--resume', '{other.pth}'),
        ("checkpoint '{other.pth}' is not of the network of the config", '1 unexpected (fc.weight)', 'Give the config'),
    ),
    'checkpoint of another network to start from': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, 'load_from={other.pth}'),
        ("checkpoint '{other.pth}' shares no parameter with the network of the config", 'Leave load_from out'),
    ),
    'checkpoint of another network to fold': (
        (FOLD, '{config.py}', '{other.pth}', '{out}/deploy.pth'),
        ("checkpoint '{other.pth}' is not of the network of the config", 'Give the config it was trained with'),
    ),
    'missing checkpoint to convert': (
        (CKCONV, '{absent.pth}', '{out}/converted.pth'),
        ("checkpoint '{absent.pth}' does not exist; give the path of a .pth file",),
    ),
    'plain checkpoint of another network to convert': (
        (PLAIN, '{other.pth}', '{out}/converted.pth', '--config', '{config.py}'),
        ("checkpoint '{other.pth}' is of another network", '--config'),
    ),
    'plain checkpoint of no known network': (
        (PLAIN, '{other.pth}', '{out}/converted.pth'),
        ('cannot be told from its names', 'give --config CONFIG'),
    ),
    'missing plain checkpoint to convert': (
        (PLAIN, '{absent.pth}', '{out}/converted.pth'),
        ("checkpoint '{absent.pth}' does not exist",),
    ),
    'checkpoint of another network to convert': (
        (CKCONV, '{other.pth}', '{out}/converted.pth'),
        ('1 parameters have no place in mmkerv.CKCNN: fc.weight', "the CKConv authors' CKCNN"),
    ),
    'checkpoint without positions to convert': (
        (DCLS, '{other.pth}', '{out}/converted.pth'),
        ("checkpoint '{other.pth}' has no positions", "authors' ConvNeXt-dcls"),
    ),
    'checkpoint of another network to write by released names': (
        (RELEASED, '{other.pth}', '{out}/converted.pth'),
        ("checkpoint '{other.pth}' is not of mmkerv.UniRepLKNet",),
    ),
    'omega_0 of 0': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, f'{CONV}.type=CKConv', f'{CONV}.omega_0=0'),
        (f'{CONV}: omega_0 must be > 0, got 0',),
    ),
    'even extent': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, f'{CONV}.type=CKConv', f'{CONV}.kernel_extent=4'),
        (f'{CONV}: kernel_extent must be odd', 'got (4, 4)'),
    ),
    'list to publish': ((PUBLISH, '{list.pth}', '{out}/published.pth'), ('the checkpoint holds a list',)),
    'pair without =': (
        (TRAIN, '{config.py}', '--work-dir', '{out}', OPTIONS, 'data_root'),
        ("--cfg-options takes key=value pairs, got 'data_root'",),
    ),
    'pair into a string': (
        (FOLD, '{config.py}', '{good.pth}', '{out}/deploy.pth', OPTIONS, 'model.type.name=A'),
        ('--cfg-options model.type.name=A does not fit', '{config.py}', 'Change the keys'),
    ),
    'wrong suffix of predictions': (
        (TEST, '{config.py}', '{good.pth}', '--work-dir', '{out}', '--out', '{out}/a.txt'),
        ("--out must end in .pkl for pred, got '{out}/a.txt'",),
    ),
    'wrong suffix of the folded network': (
        (FOLD, '{config.py}', '{good.pth}', '{out}/deploy.onnx'),
        ("save_path must end in .pth, got '{out}/deploy.onnx'",),
    ),
    '--out-item without --out': (
        (TEST, '{config.py}', '{good.pth}', '--out-item', 'metrics'),
        ('--out-item needs --out: give --out FILE too',),
    ),
    'file as work folder': (
        (TEST, '{config.py}', '{good.pth}', '--work-dir', '{file}'),
        ('{file}',),
    ),
    'unknown keys to publish': (
        (PUBLISH, '{good.pth}', '{out}/published.pth', '--save-keys', 'meta', 'optimiser'),
        ('--save-keys: the checkpoint has no optimiser; it has meta, message_hub, state_dict, optimizer',),
    ),
    'text to test': (
        (TEST, '{config.py}', '{text.pth}', '--work-dir', '{out}'),
        ("checkpoint '{text.pth}' was not read: it is damaged", '--trust-checkpoint'),
    ),
}

# Commands that get a malicious checkpoint.
MALICIOUS = {
    'test': (TEST, '{config.py}', '{malicious.pth}', '--work-dir', '{out}'),
    'resume': (TRAIN, '{config.py}', '--work-dir', '{out}', '--resume', '{malicious.pth}'),
    'backbone': (
        TRAIN,
        '{config.py}',
        '--work-dir',
        '{out}',
        OPTIONS,
        'model.backbone.init_cfg.checkpoint={malicious.pth}',
    ),
    'fold': (FOLD, '{config.py}', '{malicious.pth}', '{out}/deploy.pth'),
    'publish': (PUBLISH, '{malicious.pth}', '{out}/published.pth'),
    'convert': (CKCONV, '{malicious.pth}', '{out}/converted.pth'),
    'convert dcls': (DCLS, '{malicious.pth}', '{out}/converted.pth'),
    'convert plain': (PLAIN, '{malicious.pth}', '{out}/converted.pth', '--config', '{config.py}'),
}
