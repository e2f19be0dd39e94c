"""The folder that `mmkerv release` writes: whole, small, without anything of this machine, and loadable by name."""

import getpass
import hashlib
import json
import platform

import pytest

pytest.importorskip('mmpretrain')

import torch

import mmkerv
from mmkerv.analysis.release.network import Form
from mmkerv.cli.model_converters.release_weights import main
from mmkerv.deploy.trained_model import load_trained
from mmkerv.errors import ConfigError
from mmkerv.ops.core.base import ConvNd
from tests.tools.finished_comparison import CLASSES

NAMES = ['small_plain', 'small_coc', 'small_kerv']


def index(folder):
    return json.loads((folder / 'index.json').read_text())


def release(comparison, out, *flags):
    main([str(comparison), '--out', str(out), '--no-test', *flags])
    return index(out)


def operators(model):
    return [name for name, module in model.named_modules() if isinstance(module, ConvNd)]


def test_files_are_those_of_the_index(weights):
    networks = index(weights)['networks']
    assert list(networks) == NAMES
    files = [network['card'] for network in networks.values()]
    files += [form[part] for network in networks.values() for form in network['forms'].values()
              for part in ('config', 'weights')]  # fmt: skip
    for file in files:
        content = (weights / file['name']).read_bytes()
        assert file['size'] == len(content) and file['sha256'] == hashlib.sha256(content).hexdigest()
    assert sorted(path.name for path in weights.iterdir()) == sorted(['index.json', *(file['name'] for file in files)])
    assert {name: list(network['forms']) for name, network in networks.items()} == {
        'small_plain': ['trained'],
        'small_coc': ['trained', 'folded'],
        'small_kerv': ['trained'],
    }


def test_names_are_listed(weights):
    found = {each.name: each for each in mmkerv.list_weights(weights)}
    assert list(found) == NAMES
    coc = found['small_coc']
    assert coc[1:5] == ('image classification', 'CustomDataset in data/kinds', 'coc', 'accuracy/top1')
    assert coc.value is not None and coc.forms == ('trained', 'folded')
    assert coc.size == sum(file.stat().st_size for file in weights.glob('small_coc*.pth'))


@pytest.mark.parametrize('name', NAMES)
def test_loaded_network_is_the_trained_one(comparison, weights, name):
    folder = comparison / name.removeprefix('small_') / 'seed_0'
    trained = load_trained(str(folder / 'small.py'), folder / 'epoch_2.pth')[1]
    image = torch.randn(2, 3, 32, 32)
    model = mmkerv.load(name, weights)
    assert not model.training and model.dataset_meta == {'classes': CLASSES} == model._dataset_meta
    assert torch.equal(model(image), trained(image))
    assert len(operators(model)) == len(operators(trained)) and (operators(model) == []) == (name == 'small_plain')


def test_folded_network_computes_the_same_without_operators(weights):
    image = torch.randn(2, 3, 32, 32)
    trained, folded = mmkerv.load('small_coc', weights), mmkerv.load('small_coc', weights, folded=True)
    assert operators(trained) and not operators(folded)
    expected = trained(image)
    assert (folded(image) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_it_predicts(weights, comparison):
    from mmpretrain import ImageClassificationInferencer

    model = mmkerv.load('small_coc', weights, folded=True)
    image = next((comparison.parents[1] / 'data').rglob('*.png'))
    (found,) = ImageClassificationInferencer(model)(str(image))
    assert found['pred_class'] in CLASSES


def test_nothing_of_the_machine_is_in_it(weights, comparison):
    private = [str(comparison.parents[1]), str(comparison), '/home/', 'somebody', 'record.json', 'experiment_name']
    private += [name for name in (platform.node(), f'/{getpass.getuser()}/') if len(name) > 4]
    for file in weights.iterdir():
        content = file.read_bytes()
        for text in private:
            assert text.encode() not in content, (file.name, text)


def test_checkpoints_hold_weights_and_what_a_user_needs(weights):
    for file in weights.glob('*.pth'):
        content = torch.load(file, weights_only=True)
        assert set(content) == {'meta', 'state_dict'}
        assert set(content['meta']) == {
            *('cfg', 'epoch', 'iter', 'seed', 'dataset_meta', 'mmkerv_version', 'mmengine_version')
        }


def test_configs_are_self_contained(weights):
    plain, coc, folded = ((weights / f'small_{name}.py').read_text() for name in ('plain', 'coc', 'coc_folded'))
    for text in (plain, coc, folded):
        assert '_base_' not in text and 'work_dir' not in text and 'load_from' not in text
        assert "data_root = 'data/kinds'" in text and "type='EMAHook'" in text and 'FrozenKernelsHook' not in text
    assert 'mmkerv' not in plain and 'mmkerv' not in folded and 'mmkerv.CoCConv' in coc


def test_cards_tell_what_was_measured(weights):
    network = index(weights)['networks']['small_coc']
    text = (weights / 'small_coc.md').read_text()
    measured = network['forms']['trained']['metrics']['accuracy/top1']
    row = next(line for line in text.splitlines() if line.startswith('| accuracy/top1'))
    assert row == f'| accuracy/top1 | {measured:.4g} | {network["forms"]["folded"]["metrics"]["accuracy/top1"]:.4g} |'
    for words in (
        'One of 2 seeds; accuracy/top1 at the end of their trainings: 0: 33.3, 1: 34.3',
        '6 samples of train and 6 samples of test',
        '1 epoch, batches of 1, SGD (lr 0.1)',
        'At the end of the training, accuracy/top1 was 33.3',
        'no pretrained backbone',
        'Licence of the weights: Apache-2.0',
        'PyTorch ',
        network['forms']['folded']['weights']['sha256'],
    ):
        assert words in text, words
    kerv = (weights / 'small_kerv.md').read_text()
    assert 'There is no folded form: ' in kerv and 'One seed: how far the metric spreads' in kerv


def test_equal_weights_give_equal_files(comparison, weights, tmp_path):
    again = release(comparison, tmp_path / 'a', '--operators', 'coc')['networks']
    assert list(again) == ['small_coc'] and again['small_coc']['forms']['trained']['metrics'] is None
    for kind, form in index(weights)['networks']['small_coc']['forms'].items():
        assert again['small_coc']['forms'][kind]['weights'] == form['weights']
    assert 'not measured' in (tmp_path / 'a' / 'small_coc.md').read_text()


def test_seeds_and_forms_are_chosen(comparison, tmp_path):
    found = release(comparison, tmp_path / 'a', '--operators', 'coc', '--seeds', '0', '1', '--forms', 'folded')
    assert list(found['networks']) == ['small_coc_seed0', 'small_coc_seed1']
    assert all(list(network['forms']) == ['folded'] for network in found['networks'].values())
    with pytest.raises(ConfigError, match=r'has no trained form; give folded=True'):
        mmkerv.load('small_coc_seed1', tmp_path / 'a')


def test_work_folder_of_a_training(comparison, tmp_path):
    found = release(comparison / 'coc' / 'seed_1', tmp_path / 'a')
    assert list(found['networks']) == ['small_coc'] and found['networks']['small_coc']['seed'] == 1


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (('--max-mb', '0.01'), r'--max-mb 0.01: the folder would have .* of which the largest are small_.* raise'),
        (('--operators', 'cok'), r"--operators 'cok' has no finished run .*; did you mean 'coc'\? It has "),
        (('--operators', 'ck'), r"--operators 'ck' has no finished run"),
        (('--seeds', '7'), r'--seeds 7: plain has none of them finished .*; it has 0'),
    ],
)
def test_bad_input_writes_nothing(comparison, tmp_path, flags, message):
    with pytest.raises(ConfigError, match=message):
        release(comparison, tmp_path / 'a', *flags)
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_nothing(comparison, tmp_path, monkeypatch):
    def breaks(*args):
        assert list(tmp_path.iterdir())
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('mmkerv.analysis.release.card.card', breaks)
    with pytest.raises(OSError, match='free some space') as error:
        release(comparison, tmp_path / 'a', '--operators', 'plain')
    assert error.value.filename == str(tmp_path / 'a') and not list(tmp_path.iterdir())


def test_a_folder_is_not_overwritten(comparison, weights):
    before = {file: file.read_bytes() for file in weights.iterdir()}
    with pytest.raises(ConfigError, match='exists already; remove it, or give another folder'):
        release(comparison, weights)
    assert {file: file.read_bytes() for file in weights.iterdir()} == before


def test_the_current_folder_is_not_written_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"--out '\.' is the current folder; give one to make, such as weights"):
        main(['work', '--out', '.'])


def test_names_must_differ(comparison, tmp_path):
    with pytest.raises(ConfigError, match="would both be called 'small_plain'"):
        main([str(comparison), str(comparison / 'plain' / 'seed_0'), '--out', str(tmp_path / 'a'), '--no-test'])


def test_half_precision_only_where_the_metric_stays_the_same(comparison, tmp_path, monkeypatch, capsys):
    def measured(self, folder, half):
        changed = half and operators_in(self)
        return {'accuracy/top5': 99.0 if half else 98.0, 'accuracy/top1': 50.0 if changed else 75.0}

    def operators_in(form):
        return 'CoCConv' in form.text

    monkeypatch.setattr(Form, 'measure', measured)
    main([str(comparison), '--out', str(tmp_path / 'a'), '--half', '--operators', 'coc'])
    forms = index(tmp_path / 'a')['networks']['small_coc']['forms']
    assert {kind: form['dtype'] for kind, form in forms.items()} == {'trained': 'float32', 'folded': 'float16'}
    assert [form['metrics']['accuracy/top5'] for form in forms.values()] == [98.0, 99.0]
    assert forms['folded']['weights']['size'] < 0.6 * forms['trained']['weights']['size']
    out = capsys.readouterr().out
    assert 'small_coc_trained: stays float32: accuracy/top1 75.0 in float32, 50.0 in float16' in out
    state = mmkerv.load('small_coc', tmp_path / 'a', folded=True).state_dict()
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}


def test_half_precision_needs_the_metrics(comparison, tmp_path, capsys):
    with pytest.raises(SystemExit):
        release(comparison, tmp_path / 'a', '--half')
    assert '--half compares the metrics of both precisions: leave out --no-test' in capsys.readouterr().err
