import pytest
import torch
from mmengine.hooks import Hook

from mmkerv.engine import apply_patches
from mmkerv.engine.config.prepare import TRAINING_HOOKS, Config
from mmkerv.engine.resume.latest_checkpoint import latest_checkpoint
from mmkerv.errors import DivergedError
from tests.engine.tiny_runner import TinyModel, tiny_runner

ONE = dict(checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1))


class Diverge(Hook):
    """A finite loss with a NaN gradient, in the last step before the second checkpoint."""

    priority = 'VERY_HIGH'

    def __init__(self, value: float = float('nan')):
        self.value = value

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 3:
            runner.model.conv.weight.data[0] = self.value


class Masked(TinyModel):
    """A model with infinite numbers in a buffer from construction."""

    def __init__(self):
        super().__init__()
        self.register_buffer('mask', torch.tensor([0.0, float('-inf')]))


def run(folder, *hooks, **kwargs):
    apply_patches()
    added = [*hooks, *(dict(type=name) for name in TRAINING_HOOKS)]
    length = dict(by_epoch=True, max_epochs=3)
    return tiny_runner(folder, custom_hooks=added, train_cfg=length, default_hooks=ONE, **kwargs).train()


def test_tools_add_the_hook():
    assert 'mmkerv.FiniteCheckpointHook' in TRAINING_HOOKS


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('ema', [False, True])
def test_diverged_network_replaces_no_checkpoint(tmp_path, value, ema):
    with pytest.raises(DivergedError, match=r'in conv\.weight.*diverged.*earlier checkpoints are kept.*--resume'):
        run(tmp_path, Diverge(value), *([dict(type='EMAHook')] if ema else []))
    assert sorted(file.name for file in tmp_path.glob('*.pth')) == ['epoch_1.pth']
    last = latest_checkpoint(Config(dict(work_dir=str(tmp_path))))
    assert last == str(tmp_path / 'epoch_1.pth')
    run(tmp_path, resume=True, load_from=last)
    assert sorted(file.name for file in tmp_path.glob('*.pth')) == ['epoch_3.pth']


def test_trained_weights_behind_a_finite_average_count(tmp_path):
    """The average is updated in every second step only, and still finite when the network is not."""
    with pytest.raises(DivergedError, match=r'in conv\.weight'):
        run(tmp_path, Diverge(), dict(type='EMAHook', interval=2))
    assert sorted(file.name for file in tmp_path.glob('*.pth')) == ['epoch_1.pth']


def test_tensors_that_were_not_finite_before_training_are_exempt(tmp_path):
    run(tmp_path, model=Masked())
    assert (tmp_path / 'epoch_3.pth').is_file()
    with pytest.raises(DivergedError, match=r'in conv\.weight:'):
        run(tmp_path, Diverge(), model=Masked())
