"""What the conftest.py of the root promises: no test sees what ran before it in its process."""

import os
import random
import zlib

import numpy as np
import pytest
import torch

pytest.importorskip('mmengine')

from mmengine.fileio.handlers import PickleHandler
from mmengine.fileio.handlers.registry_utils import file_handlers

from mmkerv.engine.config.read import install_safe_data_files


@pytest.fixture(scope='module')
def readers_replaced():
    install_safe_data_files()


@pytest.fixture
def numbers_drawn():
    random.random(), np.random.rand(), torch.rand(1)


def test_numbers_depend_on_the_name_alone(request, numbers_drawn):
    number = zlib.crc32(f'{request.node.nodeid} {int(os.environ.get("MMKERV_SEED", "0"))}'.encode())
    assert random.random() == random.Random(number).random()
    assert np.random.rand() == np.random.RandomState(number).rand()
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(number)))


def test_fixtures_of_modules_leave_mmengine_as_it_was(readers_replaced):
    assert type(file_handlers['pkl']) is PickleHandler
