"""A work folder in place of CONFIG CHECKPOINT: which files are taken from it, and which commands take it."""

import argparse
import os
import re
from importlib import import_module
from pathlib import Path

import pytest

from mmkerv.cli.main import COMMANDS
from mmkerv.cli.network import NetworkParser, checkpoint_of, network_files
from mmkerv.errors import ConfigError
from mmkerv.work_folder import require_checkpoint


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory, monkeypatch):
    """The files of other networks, in the current folder."""
    monkeypatch.chdir(tmp_path_factory.mktemp('elsewhere'))
    for name in ('a.py', 'a.pth', 'b.pth', 'best_b_epoch_1.pth', 'c.py', 'c.pth'):
        Path(name).touch()


@pytest.fixture
def work(tmp_path) -> Path:
    """A work folder with a config and two checkpoints, which has been moved since the training."""
    folder = tmp_path / 'work'
    folder.mkdir()
    for name in ('a.py', 'epoch_1.pth', 'epoch_2.pth'):
        (folder / name).touch()
    (folder / 'last_checkpoint').write_text('/elsewhere/epoch_2.pth')
    return folder


def names(folder: Path) -> list[str]:
    return [Path(file).name for file in network_files(str(folder))]


def test_last_checkpoint_is_taken_and_said(work, capsys):
    assert network_files(str(work)) == (str(work / 'a.py'), str(work / 'epoch_2.pth'))
    assert capsys.readouterr() == ('', f'mmkerv: {work}: config a.py, checkpoint epoch_2.pth (the last one)\n')


def test_best_checkpoint_comes_first(work, capsys):
    (work / 'best_acc_epoch_1.pth').touch()
    assert names(work) == ['a.py', 'best_acc_epoch_1.pth']
    assert capsys.readouterr().err.endswith('checkpoint best_acc_epoch_1.pth (the best one)\n')


def test_one_process_of_several_says_it(work, capsys, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    assert names(work) == ['a.py', 'epoch_2.pth'] and capsys.readouterr().err == ''


def test_several_best_checkpoints_are_refused(work):
    for metric in 'ab':
        (work / f'best_{metric}_epoch_1.pth').touch()
    with pytest.raises(
        ConfigError, match=r'several best checkpoints: best_a_epoch_1.pth, best_b_epoch_1.pth; give one'
    ):
        network_files(str(work))
    # The user gives one of them.
    given = network_files(str(work), 'best_b_epoch_1.pth')
    assert given == (str(work / 'a.py'), 'best_b_epoch_1.pth')


def test_without_a_marker_the_only_checkpoint_is_taken(work):
    (work / 'last_checkpoint').unlink()
    with pytest.raises(ConfigError, match=r'several checkpoints, and last_checkpoint names none of them: epoch_1.pth'):
        network_files(str(work))
    (work / 'epoch_1.pth').unlink()
    assert names(work) == ['a.py', 'epoch_2.pth']
    (work / 'epoch_2.pth').unlink()
    with pytest.raises(FileNotFoundError, match=r'holds no checkpoint \(NAME.pth\)'):
        network_files(str(work))
    assert network_files(str(work), needed=False) == (str(work / 'a.py'), None)


def test_several_configs_are_refused(work):
    (work / 'b.py').touch()
    with pytest.raises(ConfigError, match=r'several configs: [ab].py, [ab].py; give one of them: CONFIG CHECKPOINT'):
        network_files(str(work))


def test_folder_without_a_config_is_refused(work):
    (work / 'a.py').unlink()
    with pytest.raises(FileNotFoundError, match=r'holds no config \(NAME.py\)'):
        network_files(str(work))


def test_folded_network_beside_the_trained_one_is_left_out(work, capsys):
    for name in ('folded.py', 'folded.pth', 'deploy.py'):
        (work / name).touch()
    assert names(work) == ['a.py', 'epoch_2.pth']
    (work / 'last_checkpoint').unlink()
    (work / 'epoch_1.pth').unlink()
    assert names(work) == ['a.py', 'epoch_2.pth']


def test_folder_of_a_folded_network(tmp_path, capsys):
    for name in ('deploy.py', 'deploy.pth'):
        (tmp_path / name).touch()
    assert names(tmp_path) == ['deploy.py', 'deploy.pth']
    assert capsys.readouterr().err.endswith('config deploy.py, checkpoint deploy.pth (written with it)\n')


def test_files_stay_as_they_are(capsys):
    assert network_files('a.py') == ('a.py', None) and network_files('a.py', 'b.pth') == ('a.py', 'b.pth')
    assert checkpoint_of('b.pth') == 'b.pth' and capsys.readouterr() == ('', '')


def test_a_folder_in_place_of_a_file_is_not_said_to_be_absent(work):
    from mmkerv.cli import train

    with pytest.raises(FileNotFoundError, match=r"checkpoint '.*work' is a folder; give the path of a \.pth file"):
        network_files('a.py', str(work))
    with pytest.raises(FileNotFoundError, match=r"config '.*work' is a folder; give the path of a config file"):
        train.parse_args([str(work)])


def test_addresses_and_configs_of_libraries_are_looked_up_later():
    pair = 'mmdet::absent.py', 'https://host/absent.pth'
    assert network_files(*pair) == pair and checkpoint_of(pair[1]) == pair[1]


# Command -> arguments with a work folder.
NETWORK = {
    'test': '{work}',
    'fold': '{work} {out}',
    'decompose': '--rate 2 {work} {out}',
    'vis-kernel': '{work} --topk 1',
    'vis-erf': '--num 1 {work}',
    'vis-cam': '{image} --topk 1 {work}',
    'vis-featmap': '{image} {work}',
    'vis-response': '{work}',
    'benchmark': '--task inference {work}',
    'kernel-report': '{work}',
    'statistics': '{work} --seed 1',
}
# They take the initial weights of a config alone.
OPTIONAL = ('benchmark', 'kernel-report', 'statistics')
CONFIG = ('flops', 'print-config', 'browse-dataset')


def parsed(command: str, words: str, work: Path) -> argparse.Namespace:
    places = dict(work=work, out=work.parent / 'out.pth', image='a.png', config='c.py', checkpoint='c.pth')
    return import_module(COMMANDS[command].module).parse_args([word.format(**places) for word in words.split()])


def given(args: argparse.Namespace) -> tuple[str, str]:
    return getattr(args, 'config', None) or args.config_path, getattr(args, 'checkpoint', None) or args.checkpoint_path


@pytest.mark.parametrize('command', NETWORK)
def test_command_takes_a_work_folder(command, work):
    assert given(parsed(command, NETWORK[command], work)) == (str(work / 'a.py'), str(work / 'epoch_2.pth'))
    words = NETWORK[command].replace('{work}', '{config} --cfg-options a=1 --trust-checkpoint {checkpoint}')
    words = words.replace('{checkpoint}', '--checkpoint {checkpoint}') if command == 'kernel-report' else words
    pytest.importorskip('mmengine')
    assert given(parsed(command, words, work)) == ('c.py', 'c.pth')


@pytest.mark.parametrize('command', CONFIG)
def test_command_takes_the_config_of_a_work_folder(command, work):
    for file in work.glob('*.pth'):
        file.unlink()
    assert parsed(command, '{work}', work).config == str(work / 'a.py')


def test_publish_takes_the_checkpoint_of_a_work_folder(work):
    assert parsed('publish', '{work} {out}', work).in_file == str(work / 'epoch_2.pth')
    assert parsed('convert unireplknet', '{work} {out}', work).src == str(work / 'epoch_2.pth')


@pytest.mark.parametrize('command', ['vis-erf', 'vis-cam'])
def test_second_network_may_be_a_work_folder(command, work, capsys):
    pair, files = [str(work / 'a.py'), str(work / 'epoch_2.pth')], ['c.py', 'c.pth']
    image = '{image} ' if command == 'vis-cam' else ''
    for words, first, second in (
        ('{config} {checkpoint} --compare {work}', files, pair),
        ('--compare {work} {config} {checkpoint}', files, pair),
        ('--compare {work} {work}', pair, pair),
        ('{work} --compare {work} {checkpoint}', pair, [pair[0], 'c.pth']),
        ('--compare {config} {checkpoint} {work}', pair, files),
    ):
        args = parsed(command, image + words, work)
        assert (list(given(args)), args.compare) == (first, second), words
    assert parsed(command, f'{image}{{work}}', work).compare is None
    with pytest.raises(SystemExit):
        parsed(command, f'{image}{{work}} --compare {{config}}', work)
    assert "--compare takes CONFIG CHECKPOINT or a work folder, and 'c.py' is no folder" in capsys.readouterr().err


def test_statistics_compares_with_a_work_folder(work):
    pair = [str(work / 'a.py'), str(work / 'epoch_2.pth')]
    assert parsed('statistics', '{config} --compare {work}', work).compare == pair
    assert parsed('statistics', '{config}', work).checkpoint is None


def test_benchmark_of_the_data_needs_no_checkpoint(work):
    for file in work.glob('*.pth'):
        file.unlink()
    args = parsed('benchmark', '{work} --task dataloader', work)
    assert (args.config, args.checkpoint) == (str(work / 'a.py'), None)


@pytest.mark.parametrize('command', [name for name in NETWORK if name not in OPTIONAL])
def test_a_config_alone_is_refused(command, work, capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(command, NETWORK[command].replace('{work}', '{config}'), work)
    assert ended.value.code == 2
    assert re.search(r"checkpoint\w* is required: config\w* 'c.py' is no work folder", capsys.readouterr().err)


def test_an_absolute_path_in_the_marker_is_taken_where_the_folder_has_no_copy(work, tmp_path):
    (tmp_path / 'epoch_7.pth').touch()
    (work / 'last_checkpoint').write_text(str(tmp_path / 'epoch_7.pth'))
    assert network_files(str(work))[1] == str(tmp_path / 'epoch_7.pth')


def test_flags_may_stand_between_the_arguments():
    parser = NetworkParser()
    parser.add_argument('image')
    parser.add_network()
    parser.add_argument('--flag', action='store_true')
    parser.add_argument('--size', type=int, default=3)
    args = parser.parse_args(['a.png', '--flag', 'a.py', '--size', '4', 'a.pth'])
    assert (args.image, args.config, args.checkpoint, args.flag, args.size) == ('a.png', 'a.py', 'a.pth', True, 4)
    with pytest.raises(SystemExit):
        parser.parse_args(['a.png', 'a.py', 'a.pth', 'b.pth'])
    with pytest.raises(SystemExit):
        parser.parse_args(['a.png', 'a.py', 'a.pth', '--other'])


def test_the_newest_config_of_several_comes_first(tmp_path):
    from mmkerv.work_folder import configs_of

    for age, name in enumerate(('a.py', 'b.py')):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (100 - age, 100 - age))
    assert [file.name for file in configs_of(tmp_path)] == ['a.py', 'b.py']


def test_a_checkpoint_in_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"'~/a\.pth' does not exist"):
        require_checkpoint('~/a.pth')
    (tmp_path / 'a.pth').touch()
    require_checkpoint('~/a.pth')


@pytest.mark.parametrize('suffix', ['.yaml', '.yml', '.json'])
def test_the_config_of_a_training_may_be_data(work, suffix):
    mmengine = pytest.importorskip('mmengine')
    (work / 'a.py').unlink()
    settings = dict(model=dict(type='A'), work_dir='work_dirs/a')
    mmengine.Config(settings).dump(work / f'a{suffix}')
    for other in ([1], dict(accuracy=1.0), dict(model=dict(type='A'))):
        # Metrics, predictions and records.
        mmengine.dump(other, work / f'other{suffix}')
        assert names(work) == [f'a{suffix}', 'epoch_2.pth']
    (work / 'broken.json').write_text('{"model": ')
    assert names(work) == [f'a{suffix}', 'epoch_2.pth']
