"""Isolation of tests and docstring examples: each has its own random seed, and no patch of a library outlives it."""

import gc
import os
import random
import sys
import zlib
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest

# torch.utils.benchmark imports it, and setuptools must be imported before distutils, which other libraries import.
import setuptools  # noqa: F401
import torch

# Another number gives all tests other random inputs: a test that then fails has too tight a tolerance.
SEED = int(os.environ.get('MMKERV_SEED', '0'))


def seed(name: str) -> None:
    """Seed the generators of Python, NumPy and torch by a name."""
    number = zlib.crc32(f'{name} {SEED}'.encode())
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def pytest_collection_finish() -> None:
    """Keep what imports and collection have made out of garbage collections, which take half a second with it."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef) -> None:
    """Seed a fixture by its name alone."""
    seed(f'{fixturedef.baseid}::{fixturedef.argname}')


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Seed a test by its name alone, whatever ran before it in its process."""
    seed(item.nodeid)


@pytest.fixture(autouse=True)
def libraries_unpatched() -> Iterator[None]:
    """Undo what a test has registered and what it, or a fixture of its module, has applied of the patches."""
    if find_spec('mmengine'):
        from mmengine.logging import MMLogger

        # It keeps the stdout of its first use: an example's own would show what is logged later as its output.
        MMLogger.get_current_instance()
    undo_patches()
    yield
    undo_patches()
    remove_registered()


def undo_patches() -> None:
    """Put every patched place of a library back; tests that never import the patches need not import mmengine."""
    patches = sys.modules.get('mmkerv.engine.config.patches')
    if patches is not None:
        patches.undo_patches()


def remove_registered() -> None:
    """Remove the operators that a test has registered with ``mmkerv.register_operator``."""
    table = sys.modules.get('mmkerv.operator_table')
    for name in table.own_operators() if table else ():
        table.remove(name)
