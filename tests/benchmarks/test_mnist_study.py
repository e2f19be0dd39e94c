"""Parts of the MNIST study, and a quick run on the real data."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from tests.tool_process import Done, run_tool

pytest.importorskip('mmpretrain')
pytest.importorskip('matplotlib')

ROOT = Path(__file__).resolve().parents[2]
# For these imports only: benchmarks/ops.py would hide tests/ops.
sys.path.append(str(ROOT / 'benchmarks'))
attack, claims, data, study, training = (
    importlib.import_module(f'mnist.{name}') for name in ('attack', 'claims', 'data', 'study', 'training')
)
sys.path.pop()


def run(*arguments: object) -> Done:
    return run_tool('benchmarks/mnist_study.py', *arguments)


def write_idx(path: Path, shape: tuple[int, ...], values: bytes) -> None:
    head = bytes([0, 0, 8, len(shape)]) + b''.join(n.to_bytes(4, 'big') for n in shape)
    path.write_bytes(head + values)


def test_idx_files_are_read_in_row_major_order(tmp_path):
    write_idx(tmp_path / 'a', (2, 3), bytes(range(6)))
    assert data.read_idx(tmp_path / 'a').tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ('content', 'message'),
    [(b'\x00\x00\x08\x01\x00\x00\x00\x05abc', 'header says 5'), (b'nonsense', 'not an idx file')],
)
def test_damaged_idx_files_are_named_in_the_message(tmp_path, content, message):
    (tmp_path / 'a').write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.read_idx(tmp_path / 'a')


def test_missing_data_is_named_in_the_message(tmp_path):
    result = run(
        'search', '--quick', '--data', tmp_path / 'nowhere', '--out', tmp_path, '--only', 'lenet5$', '--workers', 1
    )
    assert result.status != 0 and 'nowhere' in result.err + result.out


def test_every_run_has_its_config():
    # Kolmogorov-Arnold convolutions are not part of the study.
    configs = {path.stem for path in (ROOT / 'configs' / 'mnist').glob('lenet5*.py') if '_kan' not in path.stem}
    assert configs == set(study.RUNS)
    literal, found, distances = (
        {config for name, part in study.PARTS for config in part if name == wanted}
        for wanted in ('literal', 'found', 'distances')
    )
    # All runs use the literal setting; the found one is for kernels of a distance and their baselines.
    assert literal == configs
    assert found < configs and 'lenet5' in found
    assert {f'lenet5_kerv_{kernel}' for kernel in study.DISTANCES} - found == {'lenet5_kerv_manhattan'}
    assert {config for config in study.RUNS if study.setting_of('distances', config)} == distances


def test_the_runs_of_the_search_for_distances_have_files_of_their_own():
    jobs = list(study.distance_jobs())
    assert len({job.path(Path()) for job in jobs}) == len(jobs) == len(set(jobs))
    # The name of a setting without the newer options is that of its old records.
    assert str(training.Setting('01', 'BN', 'patches', 'auto')) == '01+BN+patches+gamma=auto'


def test_options_of_distances():
    torch.manual_seed(0)
    images = torch.rand(64, 1, 28, 28)

    def features(**options):
        torch.manual_seed(0)
        setting = training.Setting(init='patches', places='first', **options)
        backbone = training.build('lenet5_kerv_l2', setting, images).backbone
        return backbone, backbone.layer1(images[:2])

    plain, y = features()
    assert [training.is_distance(stage[0]) for stage in (plain.layer1, plain.layer2)] == [True, False]
    # The bias is multiplied with the distance.
    assert features(factor=-1.0)[1].mean() < 0.1 * y.mean()
    torch.testing.assert_close(features(factor=0.5)[1], 0.5 * y)
    assert features(factor=-1.0, activation=False)[1].mean() < 0 <= features(factor=-1.0)[1].min()
    assert isinstance(features(activation=False)[0].layer2[-2], torch.nn.ReLU)


def test_fgsm_follows_its_definition():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    model.forward = lambda x, mode=None, call=model.forward: call(x)
    x, y = torch.rand(40, 1, 28, 28), torch.randint(0, 10, (40,))
    assert attack.attacked_accuracy(model, x, y, 0.0) == pytest.approx(
        100 * float((model(x).argmax(1) == y).float().mean())
    )
    # For a linear model the sign of the gradient is that of (p - onehot) W.
    p = model(x).softmax(1) - torch.nn.functional.one_hot(y, 10)
    step = (p @ model[1].weight).sign().view_as(x)
    expected = 100 * float((model((x + 0.1 * step).clamp(0, 1)).argmax(1) == y).float().mean())
    assert attack.attacked_accuracy(model, x, y, 0.1) == pytest.approx(expected)


def test_eps_and_accuracies_are_interpolated_on_the_grid():
    curves = [[99.0, 90.0, 80.0, 72.92, 62.92, 50.0, 40.0, 30.0], [99.0, 90.0, 80.0, 70.92, 60.92, 50.0, 40.0, 30.0]]
    eps = attack.eps_of_the_paper(curves)
    assert eps == pytest.approx(attack.EPS[3])
    assert attack.interpolated(curves[0], eps) == pytest.approx(72.92)
    assert attack.interpolated(curves[0], (attack.EPS[1] + attack.EPS[2]) / 2) == pytest.approx(85.0)
    with pytest.raises(ValueError, match='extend EPS'):
        attack.eps_of_the_paper([[99.0] * len(attack.EPS)])


def test_filters_are_initialised_with_patches():
    torch.manual_seed(0)
    images = torch.rand(20, 1, 28, 28)
    model = training.build('lenet5_kerv_l2', training.Setting(init='patches'), images)
    patches = torch.nn.functional.unfold(images, 5, padding=2).transpose(1, 2).flatten(0, 1)
    weight = model.backbone.layer1[0].weight.flatten(1)
    assert float(torch.cdist(weight.detach(), patches, p=1.0).amin(1).max()) < 1e-5
    assert weight.unique(dim=0).shape == weight.shape


def record(best: float, iteration: int | None) -> dict:
    return {'best': best, 'to_target': None if iteration is None else {'iteration': iteration, 'seconds': 1.0}}


def test_claims_are_judged_by_the_results():
    runs = {
        'lenet5': [record(99.0, 4000)],
        'lenet5_kerv': [record(98.5, 1900)],
        'lenet5_kerv_sigmoid': [record(97.0, None)],
    }
    table = claims.claims(runs, {'lenet5': [71.9], 'lenet5_kerv_l1': [60.0], 'lenet5_kerv_l2': [65.0]})
    lines = {line.split(' | ')[0].removeprefix('| '): line.split(' | ')[1] for line in table.splitlines()[2:]}
    assert lines['polynomial reaches 98 % in at most half the iterations of the CNN'] == 'yes'
    assert lines['sigmoid takes at least twice the iterations of the CNN'] == 'yes'
    assert lines['gaussian reaches 98 % in at most half the iterations of the CNN'] == 'not run'
    assert lines['under FGSM: L2 norm above L1 norm'] == 'yes'
    assert lines['under FGSM: L1 norm above convolution'] == 'no'
    runs['lenet5_kerv'] = [record(98.5, 1900), record(98.5, 2500)]
    assert '| no | kerv 2200, conv 4000' in claims.claims(runs, {})


@pytest.mark.long
def test_quick_study_runs_resumes_and_reports(data_root, tmp_path):
    arguments = ('--quick', '--data', data_root / 'mnist', '--out', tmp_path / 'out', '--docs', tmp_path / 'docs')
    first = run('run', *arguments, '--only', 'lenet5$|l2$')
    assert first.status == 0, first.err
    folder = tmp_path / 'out' / 'quick' / 'run'
    records = [json.loads(path.read_text()) for path in folder.glob('*.json')]
    assert {r['config'] for r in records} == {'lenet5', 'lenet5_kerv_l2'}
    assert all(r['iterations'] == 10 and len(r['ends']) == 1 for r in records)
    # Runs with a record are not repeated; the one whose record was deleted is.
    lost = next(folder.glob('*.json'))
    lost.unlink()
    again = run('run', *arguments, '--only', 'lenet5$|l2$')
    assert f'{len(records) - 1} of {len(records)} runs have records, 1 are missing' in again.out and lost.exists()
    report = run('report', *arguments)
    assert report.status == 0, report.err
    text = (tmp_path / 'docs' / 'results.md').read_text()
    assert '| lenet5 |' in text and '99.17' in text and 'not run' in text and 'FGSM' in text
    for picture in ('convergence_found.png', 'convergence_literal.png', 'filters_found.png'):
        assert (tmp_path / 'docs' / picture).stat().st_size > 3000
    # Records in docs count as runs: a study on another machine continues from them.
    kept = json.loads((tmp_path / 'docs' / 'records.json').read_text())['run']
    assert {r['config'] for r in kept.values()} == {'lenet5', 'lenet5_kerv_l2'}
    jobs = study.run_jobs(1, 1, 500)
    folder = tmp_path / 'elsewhere' / 'run'
    found = study.records(folder, tmp_path / 'docs' / 'records.json')
    assert {job.path(folder).stem for job in jobs if 'lenet5_kerv_l2' in job.config or job.config == 'lenet5'} == set(
        found
    )
