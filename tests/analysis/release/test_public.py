"""What is published names no path, user or host of this machine."""

import pytest

pytest.importorskip('mmdet')

from mmengine.config import Config

from mmkerv.analysis.release import public
from mmkerv.analysis.release.public import public_config, refuse_private
from mmkerv.errors import ConfigError


def made(**settings):
    return public_config(Config(dict(model=dict(type='ResNet'), **settings)))._cfg_dict.to_dict()


def test_data_move_with_everything_below_them():
    loader = dict(dataset=dict(data_root='/mnt/x/coco/', ann_file='/mnt/x/coco/a.json', prefix=['/mnt/x/coco']))
    found = made(data_root='/mnt/x/coco', test_dataloader=loader, evaluator=dict(ann_file='/mnt/x/coco/a.json'))
    assert found['data_root'] == 'data/coco' and found['evaluator'] == {'ann_file': 'data/coco/a.json'}
    assert found['test_dataloader']['dataset'] == {
        'data_root': 'data/coco/', 'ann_file': 'data/coco/a.json', 'prefix': ['data/coco']
    }  # fmt: skip


def test_settings_of_the_run_are_left_out():
    found = made(
        work_dir='/a/b', load_from='/a/b.pth', resume=True, launcher='none', experiment_name='a', data_root='d/'
    )
    assert found == {'model': {'type': 'ResNet'}, 'data_root': 'd/'}


def test_the_config_that_is_given_stays_as_it_is():
    cfg = Config(dict(model=dict(type='ResNet', pretrained='/a/b.pth'), work_dir='/a', data_root='/a/d'))
    before = cfg.pretty_text
    assert public_config(cfg).model == {'type': 'ResNet', 'pretrained': None}
    assert cfg.pretty_text == before


def test_weights_of_the_start_on_this_machine_are_left_out():
    def start(checkpoint):
        cfg = Config(dict(model=dict(type='A', neck=[dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint))])))
        return public_config(cfg).model.neck[0].init_cfg

    assert start('/a/b.pth') is None and start('torchvision://resnet18').checkpoint == 'torchvision://resnet18'


@pytest.mark.parametrize(
    'value',
    ['/home/me/a.json', '~/a', '~me/a', 'C:\\a', 'D:/a', '\\\\host\\share', 'file:///a', 'cmd --out=/tmp/x', ['(/a)'],
     {'b': '/a'}],
)  # fmt: skip
def test_paths_are_found(value):
    with pytest.raises(ConfigError, match=r'the config cannot be published: a.* is .*--cfg-options a'):
        made(a=value)


@pytest.mark.parametrize(
    'value',
    ['data/coco', 'a/b.json', 'https://download.openmmlab.com/a.pth', 'torchvision://resnet50', 'a/top1', '/', 's / a'],
)  # fmt: skip
def test_other_text_passes(value):
    assert made(a=value)['a'] == value


def test_names_of_user_and_host_are_found_in_paths_and_addresses(monkeypatch):
    monkeypatch.setattr('getpass.getuser', lambda: 'Alice')
    monkeypatch.setattr('platform.node', lambda: 'lab7.example.org')
    public._own_names.cache_clear()
    try:
        for text in ('runs/alice/a', 'https://alice@wandb.ai/x', 'lab7:6006', 'at lab7.example.org/x'):
            with pytest.raises(ConfigError, match='cannot be published'):
                refuse_private({'a': text}, 'the config')
        refuse_private({'alice': 'alice', 'b': ['lab7', 'data/alices']}, 'the config')
    finally:
        public._own_names.cache_clear()


def test_plain_networks_need_no_mmkerv():
    settings = dict(
        custom_imports=dict(imports=['mmkerv'], allow_failed_imports=False),
        custom_hooks=[dict(type='mmkerv.LabelRangeHook', other_classes='warn'), dict(type='EMAHook')],
        optim_wrapper=dict(constructor='mmkerv.OperatorRulesConstructor', optimizer=dict(type='SGD')),
    )
    found = made(**settings)
    assert 'mmkerv' not in str(found) and found['custom_hooks'] == [{'type': 'EMAHook'}]
    operator = dict(type='ResNet', conv_cfg=dict(type='mmkerv.CoCConv'))
    hooks = public_config(Config({**settings, 'model': operator})).custom_hooks
    assert [hook.type for hook in hooks] == ['mmkerv.LabelRangeHook', 'EMAHook']
