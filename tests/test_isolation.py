"""The root conftest.py isolates tests: none sees what ran before it in its process."""

import os
import random
import zlib

import numpy as np
import pytest
import torch

pytest.importorskip('mmengine')

from mmengine.fileio.handlers import PickleHandler
from mmengine.fileio.handlers.registry_utils import file_handlers

import mmkerv
from mmkerv.engine import apply_patches
from mmkerv.operator_table import own_operators
from tests.ops.examples import MaskedConv2d


@pytest.fixture(scope='module')
def patches_applied():
    apply_patches()


@pytest.fixture
def numbers_drawn():
    random.random(), np.random.rand(), torch.rand(1)


def test_random_numbers_depend_on_the_name_of_the_test_alone(request, numbers_drawn):
    number = zlib.crc32(f'{request.node.nodeid} {int(os.environ.get("MMKERV_SEED", "0"))}'.encode())
    assert random.random() == random.Random(number).random()
    assert np.random.rand() == np.random.RandomState(number).rand()
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(number)))


def test_patches_of_a_module_fixture_do_not_reach_the_test(patches_applied):
    assert type(file_handlers['pkl']) is PickleHandler


@pytest.fixture(scope='module')
def none_left():
    yield
    assert not own_operators(), 'the test below has left its operator'


def test_operators_of_a_test_are_removed_after_it(none_left):
    mmkerv.register_operator()(MaskedConv2d)
    assert own_operators()
