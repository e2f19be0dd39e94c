"""The files of a comparison that is added to, without a training."""

import pytest

pytest.importorskip('mmcv')

from torch import nn

from mmkerv.analysis.comparison import folding
from mmkerv.analysis.comparison.record import DONE, Run
from mmkerv.analysis.comparison.results import results
from mmkerv.analysis.comparison.variant import parse_variants
from mmkerv.cli.compare import Comparison, parse_args


class Network(nn.Conv2d):
    def forward(self, inputs, samples=None, mode='tensor'):
        return super().forward(inputs)


def finished_runs(work, *specs):
    runs = [Run(variant, 0, work / variant.spec / 'seed_0') for variant in parse_variants(specs)]
    for run in runs:
        cost = {'seconds_per_step': None, 'memory_mib': 1, 'memory_of': 'process'}
        run.folder.mkdir(parents=True)
        run.write(status=DONE, metrics={'mIoU': 40.0}, **cost)
        (run.folder / 'epoch_1.pth').touch()
        (run.folder / 'last_checkpoint').write_text('epoch_1.pth')
    return runs


def comparison(work, runs):
    """Return the comparison of a new start of the command."""
    config = work / 'a.py'
    config.touch()
    variants = list({run.variant.spec: run.variant for run in runs}.values())
    return Comparison(parse_args([str(config)]), work, variants, runs, {}, {}, [])


def test_folds_and_times_stay_while_an_operator_is_added(monkeypatch, tmp_path):
    """The results are written after each new training, with what the earlier command found."""
    monkeypatch.setattr(folding, 'load_trained', lambda config, weights, device: (None, Network(3, 4, 3)))
    monkeypatch.setattr(folding, 'load_config', lambda file: None)

    def cannot_fold(*args, **kwargs):
        raise folding.UserError('it is not linear')

    monkeypatch.setattr(folding, 'fold_checkpoint', cannot_fold)
    runs, configs = finished_runs(tmp_path, 'plain', 'coc'), {'plain': tmp_path, 'coc': tmp_path}
    folding.fold_run(runs[1], tmp_path, (8, 8))
    times = folding.times(runs, configs, (8, 8), tmp_path, tell=lambda line: None)['milliseconds']

    again = comparison(tmp_path, [*runs, Run(parse_variants(['dcls'])[0], 0, tmp_path / 'dcls')])
    rows = results(again.variants, again.runs, {}, again.folds, again.inference)['rows']
    assert [row['milliseconds'] for row in rows] == [times['plain'], times['coc'], None]
    assert rows[1]['folds']['0']['kept'] == 'it is not linear'

    # Another checkpoint has another fold and other times.
    (runs[1].folder / 'epoch_2.pth').touch()
    (runs[1].folder / 'last_checkpoint').write_text('epoch_2.pth')
    again = comparison(tmp_path, runs)
    assert again.folds == {} and again.inference == {}
