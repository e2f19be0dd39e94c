"""The weights that tools draw are those that a training starts from."""

import pytest
import torch

pytest.importorskip('mmengine')

from torch import nn

from mmkerv.engine.config.patches import patched
from mmkerv.engine.initial_weights import draw_initial_weights
from tests.engine.tiny_runner import TinyModel, tiny_runner


class ByClass(TinyModel):
    """As networks of the libraries do, it looks for its convolutions by their class."""

    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=100)


def test_tools_draw_what_a_training_starts_from(tmp_path):
    drawn = ByClass(super_init='kaiming')
    torch.manual_seed(1)
    draw_initial_weights(drawn)
    runner = tiny_runner(tmp_path, ByClass(super_init='kaiming'))
    torch.manual_seed(1)
    with patched():
        runner._init_model_weights()
    assert drawn.conv.weight.std() > 50
    for name, value in runner.model.state_dict().items():
        assert torch.equal(drawn.state_dict()[name], value), name
