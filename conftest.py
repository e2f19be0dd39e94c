"""What holds for the tests and for the examples of docstrings: what one does changes nothing for the next.

Each starts from random numbers of its own, and mmengine is as it was.
"""

import os
import random
import zlib
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest

# torch.utils.benchmark imports it, and it refuses to come after the distutils of Python that other libraries import.
import setuptools  # noqa: F401
import torch

# Another number draws other random inputs for all tests: what fails with it has a tolerance that is luck.
SEED = int(os.environ.get('MMKERV_SEED', '0'))


def seed(name: str) -> None:
    """Seed the generators of Python, NumPy and torch by a name."""
    number = zlib.crc32(f'{name} {SEED}'.encode())
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef) -> None:
    """Let what a fixture draws depend on its name alone."""
    seed(f'{fixturedef.baseid}::{fixturedef.argname}')


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Let what a test draws depend on its name alone, not on what ran before it in its process."""
    seed(item.nodeid)


@pytest.fixture(autouse=True)
def mmengine_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what the ``install_...`` functions change in the process."""
    if find_spec('mmengine') is None:
        yield
        return
    import mmengine.runner.checkpoint as checkpoint
    from mmengine.dataset import BaseDataset
    from mmengine.fileio.backends import registry_utils
    from mmengine.fileio.handlers.registry_utils import file_handlers
    from mmengine.logging import MMLogger
    from mmengine.model import PretrainedInit

    # It keeps the stdout of where it is first asked for: an example's own would show what is logged as its output.
    MMLogger.get_current_instance()
    # mmengine sorts the schemes into a new dictionary only after it has changed the old one.
    monkeypatch.setattr(checkpoint.CheckpointLoader, '_schemes', dict(checkpoint.CheckpointLoader._schemes))
    monkeypatch.setattr(checkpoint, 'load_from_http', checkpoint.load_from_http)
    monkeypatch.setattr(PretrainedInit, '__call__', PretrainedInit.__call__)
    for name in ('prepare_data', 'load_data_list'):
        monkeypatch.setattr(BaseDataset, name, getattr(BaseDataset, name))
    registries = registry_utils.backends, registry_utils.prefix_to_backends, file_handlers
    before = [dict(registry) for registry in registries]
    yield
    for registry, own in zip(registries, before, strict=True):
        registry.clear()
        registry.update(own)
