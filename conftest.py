"""What holds for the tests and for the examples of docstrings: what one does changes nothing for the next.

Each starts from random numbers of its own, and mmengine is as it was.
"""

import os
import random
import zlib
from collections.abc import Callable, Iterator
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


def upstream() -> Callable[[], None]:
    """Give what puts mmengine back into the state in which it is now."""
    if find_spec('mmengine') is None:
        return lambda: None
    import mmengine.runner.checkpoint as checkpoint
    from mmengine.dataset import BaseDataset
    from mmengine.fileio.backends import registry_utils
    from mmengine.fileio.handlers.registry_utils import file_handlers
    from mmengine.model import PretrainedInit

    loader = checkpoint.CheckpointLoader
    places = [
        *((checkpoint, 'load_from_http'), (PretrainedInit, '__call__')),
        *((BaseDataset, 'prepare_data'), (BaseDataset, 'load_data_list')),
    ]
    functions = [getattr(*place) for place in places]
    registries = registry_utils.backends, registry_utils.prefix_to_backends, file_handlers
    contents, schemes = [dict(registry) for registry in registries], dict(loader._schemes)

    def restore() -> None:
        for place, function in zip(places, functions, strict=True):
            setattr(*place, function)
        for registry, content in zip(registries, contents, strict=True):
            registry.clear()
            registry.update(content)
        # mmengine sorts the schemes into a new dictionary only after it has changed the old one.
        loader._schemes = dict(schemes)

    return restore


# At the start of the process: fixtures of modules and the collection of tests read configs, too.
RESTORE = upstream()


@pytest.fixture(autouse=True)
def mmengine_as_it_was() -> Iterator[None]:
    """Take back what the ``install_...`` functions change in the process."""
    if find_spec('mmengine'):
        from mmengine.logging import MMLogger

        # It keeps the stdout of where it is first asked for: an example's own would show what is logged as its output.
        MMLogger.get_current_instance()
    RESTORE()
    yield
    RESTORE()
