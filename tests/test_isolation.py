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

from mmkerv.engine import apply_patches


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
