"""Config and network of every setting, the report of synthetic records, and a run of one iteration."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from torch import nn

from tests.tool_process import run_tool

pytest.importorskip('mmpretrain')

from mmkerv.analysis.logs import read_log
from mmkerv.errors import ArgumentError
from mmkerv.ops import CoCConv2d, KervConv2d

ROOT = Path(__file__).resolve().parents[2]
# For these imports only: benchmarks/ops.py would hide tests/ops.
before = list(sys.path)
sys.path.append(str(ROOT / 'benchmarks'))
settings, training, claims, report = (
    importlib.import_module(f'ablation.{name}') for name in ('settings', 'training', 'claims', 'report')
)
script = importlib.import_module('coc_ablation')
sys.path[:] = before

DATA = settings.Data(Path('tiny'), 20, 3000, 500)
# Numbers of convolutions larger than 1x1, and of 1x1 convolutions.
COUNTS = {'resnet18': (17, 3), 'shufflenet_v2_1x': (20, 36)}
# Options of each setting: (association, kernel_plus, num_layers, skip, dilate).
OPERATORS = {
    '121': (1, 2, 1, True, True),
    '221': (2, 2, 1, True, True),
    '321': (3, 2, 1, True, True),
    '421': (4, 2, 1, True, True),
    '201': (2, 0, 1, True, True),
    '241': (2, 4, 1, True, True),
    '261': (2, 6, 1, True, True),
    '222': (2, 2, 2, True, True),
    '223': (2, 2, 3, True, True),
    'no_skip': (2, 2, 1, False, True),
    'no_dilate': (2, 2, 1, True, False),
    'orth': (2, 2, 1, True, True),
    'stnd': (2, 2, 1, True, True),
    'c1x1': (2, 2, 1, True, True),
}


def job(setting: str, backbone: str = 'resnet18', **changes) -> settings.Job:
    return settings.Job(backbone, setting, 0, 20, 64)._replace(**changes)


def build(job: settings.Job) -> tuple[dict, nn.Module]:
    cfg = settings.configure(job, DATA)
    init_default_scope('mmpretrain')
    return cfg, MODELS.build(cfg.model)


def hooks(cfg: dict) -> list[str]:
    return [hook['type'] for hook in cfg.get('custom_hooks') or []]


@pytest.mark.parametrize(
    'backbone',
    [pytest.param(name, marks=() if name == 'resnet18' else pytest.mark.long) for name in settings.BACKBONES],
)
@pytest.mark.parametrize('name', OPERATORS)
def test_operators_have_the_options_of_the_setting(backbone, name):
    cfg, model = build(job(name, backbone))
    operators = [module for module in model.modules() if isinstance(module, CoCConv2d)]
    spatial, pointwise = COUNTS[backbone]
    assert len(operators) == spatial + pointwise * (name == 'c1x1')
    for operator in operators:
        assert operator.options[:5] == OPERATORS[name]
        assert operator.options.standardize == (name == 'stnd') and not operator.options.super_bias
        assert operator.options.start == ('kaiming' if name == 'stnd' else 'identity')
    assert ('mmkerv.OrthogonalityHook' in hooks(cfg)) == (name == 'orth')
    assert type(model.backbone).__mro__[1].__name__ == {'resnet18': 'ResNet'}.get(backbone, 'ShuffleNetV2')
    assert model.head.fc.out_features == 20


@pytest.mark.parametrize('backbone', settings.BACKBONES)
@pytest.mark.parametrize('name', ['plain', 'plain_orth', 'plain_stnd'])
def test_plain_networks_have_no_operators(backbone, name):
    cfg, model = build(job(name, backbone))
    kinds = {type(module).__name__ for module in model.modules() if isinstance(module, (nn.Conv2d, CoCConv2d))}
    assert kinds == {'ConvWS2d' if name == 'plain_stnd' else 'Conv2d'}
    assert ('mmkerv.OrthogonalityHook' in hooks(cfg)) == (name == 'plain_orth')
    assert job(name).start is None


@pytest.mark.parametrize('backbone', settings.BACKBONES)
def test_kerv_stem_replaces_the_first_convolution(backbone):
    _, model = build(job('kerv_stem', backbone))
    names = [name for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, KervConv2d))]
    assert [name for name, m in model.named_modules() if isinstance(m, KervConv2d)] == names[:1]


def test_every_setting_is_tested():
    assert {*OPERATORS, 'plain', 'plain_orth', 'plain_stnd', 'kerv_stem'} == set(settings.SETTINGS)
    assert settings.SETTINGS[settings.OPTIMUM] == settings.Setting()


@pytest.mark.parametrize('name', ['221', 'no_skip', 'stnd'])
def test_super_layers_can_be_initialised_as_in_the_paper(name):
    _, model = build(job(name, super_init='kaiming'))
    assert {m.options.super_init for m in model.modules() if isinstance(m, CoCConv2d)} == {'kaiming'}


def test_runs_that_do_not_depend_on_the_initialisation_have_one_name():
    starts = ('identity', 'kaiming')
    for name, count in (('plain', 1), ('plain_stnd', 1), ('stnd', 1), ('221', 2)):
        assert len({job(name, super_init=start).name(DATA) for start in starts}) == count
    changes = dict(seed=1, epochs=3, size=32, backbone='shufflenet_v2_1x', super_init='kaiming')
    names = {job('221')._replace(**{key: value}).name(DATA) for key, value in changes.items()}
    assert len(names | {job('221').name(DATA), job('222').name(DATA)}) == 7
    assert job('221').name(DATA) != job('221').name(DATA._replace(train=100))


def test_the_recipe_follows_size_epochs_and_classes():
    cfg = settings.configure(job('221', size=128, epochs=10, seed=3), DATA, loaders=0)
    resize, crop = cfg.train_dataloader.dataset.pipeline[1:3]
    assert (resize.type, resize.scale, crop.crop_size, crop.padding) == ('Resize', (128, 128), 128, 16)
    assert [step.type for step in cfg.val_dataloader.dataset.pipeline] == ['LoadImageFromFile', 'Resize', 'PackInputs']
    assert cfg.train_dataloader.dataset.data_root == 'tiny' and cfg.val_dataloader.num_workers == 0
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler.milestones, cfg.randomness.seed) == (10, [6, 8], 3)
    assert cfg.optim_wrapper.constructor == 'mmkerv.OperatorRulesConstructor'
    assert cfg.optim_wrapper.optimizer.lr == 0.05 and cfg.data_preprocessor.num_classes == 20


def record(setting: str, last: float, seed: int = 0, backbone: str = 'resnet18', start: str | None = 'identity'):
    made_up = {'backbone': backbone, 'setting': setting, 'seed': seed, 'epochs': 20, 'size': 64, 'super_init': start}
    made_up |= {'data': {'name': 'tiny', 'classes': 20, 'train': 3000, 'val': 500}, 'diverged': False}
    made_up |= {'last': last, 'best': last + 1, 'train_top1': 90.0, 'seconds_per_iteration': 1.234}
    made_up |= {'date': '2026-01-01', 'hardware': 'a processor', 'device': 'cpu', 'threads': 1, 'commit': 'abc'}
    return made_up | {'versions': {'torch': '2'}}


def test_the_report_shows_runs_and_missing_runs(tmp_path):
    out, docs = tmp_path / 'records.json', tmp_path / 'docs'
    rows = [record('221', 40.0), record('221', 42.0, 1), record('plain', 30.0, start=None), record('201', 41.0)]
    rows += [record('stnd', 20.0, start='kaiming'), record('221', 55.0, start='kaiming'), record('c1x1', 60.0)]
    training.write_records(out, {str(number): row for number, row in enumerate(rows)})
    report.write_report(out, docs / 'records.json', docs)
    identity, kaiming = (docs / 'results.md').read_text().split('## tiny: ')[1:]
    assert identity.startswith('20 classes, 3000 images (500 of validation), 64 x 64 pixels, 20 epochs; super')
    assert (
        '| 221 | the optimum | 2 | 41.0 (40.0 to 42.0) | 42.0 (41.0 to 43.0) | 90.0 (90.0 to 90.0) | 1.23 |' in identity
    )
    assert '| 222 | num_layers=2 | 0 | not run | | | |' in identity
    # Runs that do not depend on the initialisation are in both groups.
    assert all('| plain | coc=False | 1 | 30.0 |' in part for part in (identity, kaiming))
    assert all('| stnd | stnd=True | 1 | 20.0 |' in part for part in (identity, kaiming))
    assert '| 221 | the optimum | 1 | 55.0 |' in kaiming and '| 201 | kernel_plus=0 | 0 | not run' in kaiming
    assert '| (2) skp should be greater than 0 | **undecided**: 221 41.0, 201 41.0 | not run |' in identity
    assert '| (7) stnd: good for standard models | **no**: stnd 20.0, 221 41.0 |  |' in identity
    assert '| (8) c1x1: replacing is harmful | **no**: 221 41.0, c1x1 60.0 | not run |' in identity
    assert '| Table 1: CoC is better than none | **yes**: 221 41.0, plain 30.0 | not run |' in identity
    pictures = [docs / f'settings_{number}.png' for number in (1, 2)]
    assert all(f']({file.name})' in text and file.is_file() for file, text in zip(pictures, (identity, kaiming)))
    # Records in docs count as runs: a report to another folder contains them.
    first = (docs / 'results.md').read_text()
    report.write_report(tmp_path / 'nothing.json', docs / 'records.json', docs)
    assert (docs / 'results.md').read_text() == first


def test_the_plot_has_every_setting():
    plots = importlib.import_module('ablation.plots')
    assert {setting for group in plots.GROUPS.values() for setting in group} == set(settings.SETTINGS)


def test_a_report_without_runs(tmp_path):
    report.write_report(tmp_path / 'a.json', tmp_path / 'b.json', tmp_path)
    text = (tmp_path / 'results.md').read_text()
    assert text.count('| 0 | not run |') == 2 * len(settings.SETTINGS)
    assert not (tmp_path / 'records.json').exists() and not list(tmp_path.glob('*.png'))


def test_a_claim_about_several_settings_needs_all_of_them():
    claim = claims.Claim('', '221', ('222', '223'))
    runs = {'221': [record('221', 40.0)], '222': [record('222', 20.0)]}
    assert claims.judged(claim, runs) == 'not run'
    assert claims.judged(claim, runs | {'223': [record('223', 20.0)]}).startswith('**yes**')
    assert claims.judged(claim, runs | {'223': [record('223', 39.0)]}).startswith('**undecided**')
    assert claims.judged(claim, runs | {'223': [record('223', 60.0)]}).startswith('**no**')
    # Two standard errors are 6 points with 500 images, and 3.5 with 1500.
    groups = [[record('221', value, seed) for seed in range(3)] for value in (45.0, 40.0)]
    assert claims.compared(*groups) == 1 and claims.compared(groups[0][:1], groups[1][:1]) == 0


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'images'
    for number, path in enumerate(f'{split}/{name}' for split in ('train', 'val') for name in ('a', 'b')):
        (folder / path).mkdir(parents=True)
        Image.new('RGB', (64, 64), (60 * number, 99, 0)).save(folder / path / '0.JPEG')
    return folder


def main(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, 'argv', ['coc_ablation.py', *map(str, arguments)])
    script.main()


@pytest.mark.long
def test_a_run_writes_its_record_and_is_not_repeated(images, tmp_path, monkeypatch, capsys):
    out, docs = tmp_path / 'out' / 'records.json', tmp_path / 'docs'
    arguments = ('run', '--data', images, '--backbone', 'shufflenet_v2_1x', '--settings', 'orth', '--epochs', 1)
    arguments += ('--size', 32, '--loaders', 0, '--out', out, '--docs', docs)
    main(monkeypatch, *arguments)
    (made,) = json.loads(out.read_text()).values()
    assert made['data'] == {'name': 'images', 'classes': 2, 'train': 2, 'val': 2}
    assert (made['setting'], made['super_init'], made['orth_weight']) == ('orth', 'identity', settings.ORTH_WEIGHT)
    assert len(made['curve']) == 1 and 0 <= made['last'] <= made['best'] <= 100 and made['seconds_per_iteration'] > 0
    assert 0 <= made['train_top1'] <= 100 and made['threads'] == 1 and made['versions']['torch']
    log = next(out.parent.glob('*/train.log')).read_text()
    assert 'loss_orth' in log and '20 of 56 convolutions -> CoCConv' in log
    main(monkeypatch, 'report', '--out', out, '--docs', docs)
    assert '| orth | orth=True | 1 |' in (docs / 'results.md').read_text()
    # The records in docs count too.
    out.unlink()
    main(monkeypatch, *arguments)
    assert '1 of 1 runs have records, 0 are missing' in capsys.readouterr().out and not out.exists()


def test_a_failed_run_does_not_stop_the_others(tmp_path, monkeypatch):
    made = []

    def train(job, *others):
        if job.setting == '221':
            raise RuntimeError('out of luck')
        made.append(job.setting)
        return record(job.setting, 10.0)

    monkeypatch.setattr(training, 'train', train)
    out = tmp_path / 'records.json'
    jobs = [job('221'), job('222')]
    # The second time, only the failed run is missing.
    for failed in ('1 of 2', '1 of 1'):
        with pytest.raises(ArgumentError, match=rf'{failed} runs failed: resnet18__221.*out of luck'):
            training.complete(jobs, DATA, out, tmp_path / 'none.json', training.Machine(), 1)
        assert made == ['222'] and len(json.loads(out.read_text())) == 1


def test_results_are_read_from_the_log(tmp_path):
    training_rows = [(2.0, 9.0, 5.0, 1), (2.0, 10.0, 2.0, 1), (float('nan'), 20.0, 1.0, 2)]
    names = ('loss', 'accuracy_top-1', 'time', 'epoch')
    rows = [{**dict(zip(names, row)), 'step': 10 * step} for step, row in enumerate(training_rows, 1)]
    rows += [{'accuracy/top1': 30.0, 'step': 1}, {'accuracy/top1': 5.0, 'step': 2}]
    (tmp_path / 'scalars.json').write_text('\n'.join(map(json.dumps, rows)))
    assert training.figures(read_log(tmp_path / 'scalars.json')) == {
        **{'curve': [30.0, 5.0], 'best': 30.0, 'last': 5.0, 'train_top1': 20.0},
        **{'diverged': True, 'seconds_per_iteration': 1.5},
    }


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--settings', 'no_skp'), "--settings must be one of .*did you mean 'no_skip'"),
        (('--backbone', 'resnet50'), "--backbone must be one of .*did you mean 'resnet18'"),
        (('--super-init', 'kaimin'), "--super-init must be one of .*did you mean 'kaiming'"),
        (('--device', 'cuda:99'), '--device cuda:99: torch sees'),
        (('--device', 'abacus'), '--device must be cpu, cuda or cuda:N'),
        (('--size', 16), '--size must be >= 32'),
        (('--epochs', 0), '--epochs must be >= 1'),
        (('--data', 'nowhere'), '--data nowhere does not exist'),
    ],
)
def test_bad_flags_are_named_in_the_message(images, monkeypatch, tmp_path, arguments, message):
    with pytest.raises((ArgumentError, FileNotFoundError), match=message):
        main(monkeypatch, 'run', '--data', images, '--out', tmp_path / 'a.json', '--docs', tmp_path, *arguments)


def test_bad_folders_are_named_in_the_message(images):
    (images / 'val/b').rename(images / 'val/c')
    with pytest.raises(ArgumentError, match='the same classes, only one has b, c'):
        settings.inspect(images)
    (images / 'val/c/0.JPEG').unlink()
    (images / 'val/c').rename(images / 'val/b')
    (images / 'val/a/0.JPEG').unlink()
    with pytest.raises(FileNotFoundError, match='no image in val'):
        settings.inspect(images)
    (images / 'val').rename(images / 'test')
    with pytest.raises(FileNotFoundError, match='has no folder val'):
        settings.inspect(images)


def test_damaged_records_are_named_in_the_message(tmp_path):
    (tmp_path / 'a.json').write_text('{"a": ')
    with pytest.raises(ArgumentError, match=r'a\.json is not a file of records'):
        training.read_records(tmp_path / 'a.json')


def test_mistakes_end_in_one_line(tmp_path):
    result = run_tool('benchmarks/coc_ablation.py', 'run', '--data', tmp_path, '--settings', '212')
    assert result.status == 1
    assert result.err.startswith('error: --settings') and result.err.count('\n') == 1


def test_a_run_sees_only_its_device(monkeypatch):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 4)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    assert training.Machine('cpu').environment()['CUDA_VISIBLE_DEVICES'] == ''
    assert training.Machine('cuda:2').checked().environment()['CUDA_VISIBLE_DEVICES'] == '2'
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '5,7')
    assert training.Machine('cuda:1', threads=3).environment()['CUDA_VISIBLE_DEVICES'] == '7'
    assert training.Machine('cuda', threads=3).environment()['OMP_NUM_THREADS'] == '3'
