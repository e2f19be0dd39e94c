"""Logs of mmengine, against values computed by hand."""

import json
from pathlib import Path

import pytest

from mmkerv.analysis.logs import Curve, read_log, read_run, run_names, train_time
from mmkerv.errors import ConfigError
from mmkerv.visualization.curves import draw_curves

TIMES = {1: [9.0, 1.0, 2.0], 2: [8.0, 3.0, 3.0]}


def lines(by_epoch=True):
    step = 0
    for epoch, times in TIMES.items():
        for time in times:
            step += 10
            place = {'epoch': epoch, 'iter': step} if by_epoch else {'iter': step}
            yield {'lr': 0.1, 'loss': 1 / step, 'time': time, **place, 'step': step}
        yield {
            'coco/bbox_mAP': 0.1 * epoch,
            'a/top1': 1.0,
            'b/top1': 2.0,
            'time': 0.5,
            'step': epoch if by_epoch else step,
        }


def write(folder, content, name='scalars.json'):
    file = folder / 'vis_data' / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('\n'.join(json.dumps(line) if isinstance(line, dict) else line for line in content) + '\n')
    return file


@pytest.fixture
def log(tmp_path):
    return read_log(write(tmp_path, lines()))


def test_curves_of_training_count_iterations_and_those_of_evaluation_epochs(log):
    assert log.curve('loss') == Curve('iteration', [10, 20, 30, 40, 50, 60], [1 / n for n in (10, 20, 30, 40, 50, 60)])
    assert log.curve('coco/bbox_mAP') == log.curve('bbox_mAP') == Curve('epoch', [1, 2], [0.1, 0.2])
    assert log.keys == ['coco/bbox_mAP', 'a/top1', 'b/top1', 'lr', 'loss', 'time']
    assert len(log.curve('time').x) == 6, 'times of the evaluation do not count'


def test_evaluation_of_a_run_without_epochs_counts_iterations(tmp_path):
    log = read_log(write(tmp_path, lines(by_epoch=False)))
    assert log.curve('bbox_mAP') == Curve('iteration', [30, 60], [0.1, 0.2])
    assert train_time(log).epochs == {}


def test_unknown_and_ambiguous_keys_are_refused(log):
    with pytest.raises(ConfigError, match=r"no key 'mIoU'; it has coco/bbox_mAP, .*, loss, time$"):
        log.curve('mIoU')
    with pytest.raises(ConfigError, match=r"several keys that end in 'top1'; it has a/top1, b/top1$"):
        log.curve('top1')


def test_the_last_value_of_a_step_counts_after_resuming(tmp_path):
    first, again = {'lr': 1, 'loss': 5.0, 'step': 20}, {'lr': 1, 'loss': 4.0, 'step': 10}
    log = read_log(write(tmp_path, [first, again, {**first, 'loss': 3.0}]))
    assert log.curve('loss') == Curve('iteration', [10, 20], [4.0, 3.0])


@pytest.mark.parametrize(
    ('outliers', 'iteration', 'epochs'), [(False, 2.25, {1: 1.5, 2: 3.0}), (True, 26 / 6, {1: 4.0, 2: 14 / 3})]
)
def test_mean_times_of_iterations(log, outliers, iteration, epochs):
    time = train_time(log, outliers)
    assert time.iteration == pytest.approx(iteration) and time.epochs == pytest.approx(epochs)
    slow = max(epochs, key=epochs.get)
    assert f'slowest epoch {slow}, average time is {epochs[slow]:.4f} s/iter' in str(time)


def test_the_only_value_of_an_epoch_is_not_an_outlier(tmp_path):
    log = read_log(write(tmp_path, [{'lr': 1, 'time': 2.0, 'epoch': 1, 'step': 1}]))
    assert train_time(log).iteration == 2.0


def test_the_latest_log_of_a_folder_is_read(tmp_path):
    write(tmp_path / '20240101_000000', [{'lr': 1, 'loss': 1.0, 'step': 1}])
    latest = write(tmp_path / '20250101_000000', [{'lr': 1, 'loss': 2.0, 'step': 1}])
    assert read_log(tmp_path).file == latest and read_log(tmp_path).curve('loss').y == [2.0]


def test_an_unfinished_last_line_is_ignored(tmp_path):
    assert len(read_log(write(tmp_path, [*lines(), '{"lr": 0.1, "lo'])).train) == 6


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (['{"lr": 0.1, "lo', '{"lr": 1, "step": 1}'], 'line 1 is not JSON'),
        (['[1, 2]'], 'line 1 is a list'),
        (['{"env": 1}'], 'no line has a step'),
        ([''], 'no line has a step'),
        (['\x89PNG'], 'line 1 is not JSON'),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    with pytest.raises(ConfigError, match=rf"scalars.json' is not a log of mmengine: {message}.*give a vis_data"):
        read_log(write(tmp_path, content))


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist'):
        read_log(tmp_path / 'absent.json')
    with pytest.raises(FileNotFoundError, match='contains no vis_data'):
        read_log(tmp_path)


@pytest.mark.parametrize(
    ('paths', 'names'),
    [
        (['w/a/20240101_000000/vis_data/scalars.json', 'w/b/20250101_000000/vis_data/scalars.json'], ['a', 'b']),
        (
            ['w/a/20240101_000000/vis_data/scalars.json', 'w/a/20250101_000000/vis_data/scalars.json'],
            ['20240101_000000', '20250101_000000'],
        ),
        (['x.json', 'y.json'], ['x.json', 'y.json']),
    ],
)
def test_names_of_runs_are_short_and_distinct(paths, names):
    assert run_names(paths) == names


def test_iterations_and_epochs_have_separate_panels(log):
    pytest.importorskip('matplotlib')
    figure = draw_curves([(key, log.curve(key)) for key in ('loss', 'bbox_mAP', 'lr')], 'both')
    assert [axes.get_xlabel() for axes in figure.axes] == ['iteration', 'epoch']
    assert [[line.get_label() for line in axes.lines] for axes in figure.axes] == [['loss', 'lr'], ['bbox_mAP']]
    assert list(figure.axes[1].lines[0].get_ydata()) == [0.1, 0.2]


def write_start(folder, name, steps, evaluation=None):
    lines = [{'loss': float(step), 'time': 1.0, 'step': step} for step in steps]
    lines += [{'mIoU': evaluation, 'step': steps[-1]}] if evaluation else []
    file = folder / name / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text(''.join(f'{json.dumps(line)}\n' for line in lines))


def test_resumed_run_is_read_as_one(tmp_path):
    """The second start repeats step 3, which was logged but not in the checkpoint."""
    write_start(tmp_path, '20260101_000000', [1, 2, 3], evaluation=10.0)
    write_start(tmp_path, '20260102_000000', [3, 4], evaluation=20.0)
    (tmp_path / '20260103_000000' / 'vis_data').mkdir(parents=True)
    (tmp_path / '20260103_000000' / 'vis_data' / 'scalars.json').touch()
    log = read_run(tmp_path)
    assert [line['step'] for line in log.train] == [1, 2, 3, 4]
    assert log.curve('mIoU').y == [10.0, 20.0] and '20260102' in str(log.file)


def test_folder_of_a_resumed_run_is_read_as_the_page_of_the_run_does(tmp_path):
    """Also after a start that was stopped before it logged anything."""
    write_start(tmp_path, '20260101_000000', [1, 2, 3], evaluation=10.0)
    write_start(tmp_path, '20260102_000000', [3, 4], evaluation=20.0)
    write_start(tmp_path, '20260103_000000', [])
    log = read_log(tmp_path)
    assert log == read_run(tmp_path) and log.curve('loss').x == [1, 2, 3, 4] and log.folder == tmp_path
    assert read_log(tmp_path / '20260101_000000').curve('loss').x == [1, 2, 3]


def test_logs_of_several_runs_are_not_mixed(tmp_path):
    write_start(tmp_path / 'seed_0', '20260101_000000', [1, 2])
    assert read_log(tmp_path).curve('loss').x == [1, 2]
    write_start(tmp_path / 'seed_1', '20260101_000000', [3, 4])
    with pytest.raises(ConfigError, match=r'is no run, it holds 2: give the folder of one, such as .*seed_0$'):
        read_log(tmp_path)


def test_runs_in_folders_of_a_run_do_not_count(tmp_path):
    write_start(tmp_path, '20260101_000000', [1, 2], evaluation=10.0)
    write_start(tmp_path / 'finetuned', '20260102_000000', [1, 2, 3], evaluation=20.0)
    for log in (read_run(tmp_path), read_log(tmp_path)):
        assert log.curve('mIoU').y == [10.0] and [line['step'] for line in log.train] == [1, 2]


def test_folder_of_a_run_seen_from_one_of_its_starts(tmp_path, monkeypatch):
    write_start(tmp_path, '20260101_000000', [1, 2])
    monkeypatch.chdir(tmp_path / '20260101_000000')
    assert read_log('.').folder == read_log('vis_data/scalars.json').folder == tmp_path.resolve()
    monkeypatch.chdir(tmp_path)
    assert read_log('.').folder == Path('.')


def test_run_that_started_over_replaces_the_earlier(tmp_path):
    write_start(tmp_path, '20260101_000000', [1, 2, 3], evaluation=10.0)
    write_start(tmp_path, '20260102_000000', [1, 2])
    log = read_run(tmp_path)
    assert [line['step'] for line in log.train] == [1, 2] and log.evaluation == []


def test_run_without_a_log(tmp_path):
    with pytest.raises(FileNotFoundError, match='contains no vis_data'):
        read_run(tmp_path)


def test_evaluations_of_a_run_without_epochs_that_were_logged_at_epoch_0(tmp_path):
    """As LoggerHook.log_metric_by_epoch does in a loop of iterations."""
    content = [{**line, 'step': 0} if 'a/top1' in line else line for line in lines(by_epoch=False)]
    assert read_log(write(tmp_path, content)).curve('bbox_mAP') == Curve('iteration', [30, 60], [0.1, 0.2])


def test_damaged_log_of_one_start(tmp_path):
    write_start(tmp_path, '20260101_000000', [1, 2], evaluation=10.0)
    damaged = tmp_path / '20260102_000000' / 'vis_data' / 'scalars.json'
    damaged.parent.mkdir(parents=True)
    damaged.write_text('\0' * 8)
    assert [line['step'] for line in read_run(tmp_path).train] == [1, 2]
    (tmp_path / '20260101_000000' / 'vis_data' / 'scalars.json').write_text('no log\n')
    with pytest.raises(ConfigError, match='is not a log of mmengine'):
        read_run(tmp_path)
