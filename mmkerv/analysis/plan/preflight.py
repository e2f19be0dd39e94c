"""Checks before a training: each fault is found that can be found without the others mended, all at once."""

import copy
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from torch import Tensor, nn

from mmkerv.analysis.comparison.cost import reason
from mmkerv.analysis.plan.trial_step import (
    built_here,
    first_batches,
    random_batch,
    trial_optimizer,
    trial_step,
)
from mmkerv.deploy.image_size import training_shape
from mmkerv.deploy.trained_model import built
from mmkerv.engine.checkpoint.layouts import fitted_names, unwrapped_names, weights_of
from mmkerv.engine.checkpoint.load_observer import observe_loading
from mmkerv.engine.checkpoint.reachable import Source, weight_sources
from mmkerv.engine.checkpoint.safe_load import cached_file, safe_load, web_address
from mmkerv.engine.config.build_errors import described
from mmkerv.engine.config.check import data_faults, loaders, loop_faults, training_phases
from mmkerv.engine.config.from_scratch import remove_pretrained
from mmkerv.engine.config.prepare import amp_faults, as_typed, config_faults, set_loader_defaults
from mmkerv.engine.data_checks.label_range_hook import check_sample, class_numbers, other_class_numbers
from mmkerv.engine.scope import enter_scope
from mmkerv.errors import DataError
from mmkerv.ops.core.base import ConvNd
from mmkerv.registry import local_name


class Check(NamedTuple):
    """Result of one check.

    Args:
        about: what was looked at.
        faults: what is wrong, a sentence each.
        note: what was found, or why it was not looked at.
        is_done: whether it was looked at.

    Example:
        >>> print(Check('data', [], '128 images'))
        ok      data: 128 images
    """

    about: str
    faults: list[str]
    note: str = ''
    is_done: bool = True

    def __str__(self) -> str:
        if self.faults:
            return '\n'.join(f'FAULT   {self.about}: {fault}' for fault in self.faults)
        return f'{"ok" if self.is_done else "-":<8}{self.about}' + f': {self.note}' * bool(self.note)


class Preflight:
    """Checks before a training, in which the network is built, batches are read, and one is trained on.

    The weights of the network are those that the training starts from if they are on this machine; nothing is
    downloaded. Without data, the step is tried on random images.

    Args:
        cfg: config of the training, with everything that flags change in it; it stays as it is.
        batches: number of batches that are read.
        random: whether random images are taken although there is data.
        is_placed: whether ``--operator`` has put ``mmkerv.Converted`` around the model.
        trust: as in :func:`mmkerv.engine.safe_load`, for ``load_from``.
        tell: called with each result.

    Attributes:
        checks: the results.
        model: the network in training mode, with its weights, ``None`` if it cannot be built.
        wrapper: its optimizer wrapper, ``None`` if it cannot be built.
        batches: batches that it can be trained on, empty if there are none.
        has_data: whether they are of the data.
        loading_seconds: seconds to read a batch in one process.
        step_seconds: seconds of the training step that was tried, the first and slowest.
        iterations: iterations of an epoch, ``None`` without data.
        loaded: parameters that the checkpoints give, or would give once they are downloaded.

    Example:
        >>> Preflight(load_config('configs/retinanet_r50.py')).run()  # doctest: +SKIP
    """

    def __init__(
        self,
        cfg: Config,
        batches: int = 1,
        random: bool = False,
        is_placed: bool = False,
        trust: bool = False,
        tell: Callable[[Check], None] | None = None,
    ):
        self.cfg, self.number, self.random, self.tell = copy.deepcopy(cfg), batches, random, tell
        self.is_placed, self.trust = is_placed, trust
        self.checks: list[Check] = []
        self.model: nn.Module | None = None
        self.wrapper: Any = None
        self.batches: list[Any] = []
        self.has_data = False
        self.loading_seconds, self.step_seconds, self.iterations = 0.0, 0.0, None
        self.loaded: set[Tensor] = set()
        self._has_its_weights = False

    @property
    def faults(self) -> list[str]:
        """What is wrong, a sentence each.

        Example:
            >>> Preflight(Config({})).faults
            []
        """
        return [fault for check in self.checks for fault in check.faults]

    def run(self) -> 'Preflight':
        """Do all checks that can be done.

        Example:
            >>> Preflight(cfg).run().faults  # doctest: +SKIP
            []
        """
        cfg = self.cfg
        enter_scope(cfg)
        set_loader_defaults(cfg)
        config = config_faults(cfg, (), self.is_placed)
        lacking = [] if cfg.get('model') else ['the config has no model, which a training needs; write one']
        self._add(Check('types and arguments of the config', [*lacking, *loop_faults(cfg, 'train'), *config]))
        phases = training_phases(cfg)
        files = list(data_faults(cfg, *phases))
        if self.random:
            self._add(Check('files of the data', [], 'random images are taken', is_done=False))
        else:
            self._add(Check('files of the data', files))
        sources = list(weight_sources(cfg))
        self._add(_weights(sources, self.is_placed))
        if config or not cfg.get('model'):
            self._skip('network', 'its config has faults')
        else:
            self._build_network(sources)
        loader = None
        if self.random:
            self._skip('training data', 'random images are taken')
        elif any(data_faults(cfg, 'train')) or not cfg.get('train_dataloader'):
            self._skip('training data', 'it is missing')
        else:
            loader = self._read_data()
        if 'val' in phases and not self.random:
            if any(data_faults(cfg, 'val')) or not cfg.get('val_dataloader'):
                self._skip('data and metrics of the evaluation', 'the data are missing')
            else:
                self._read_evaluation()
        if self.model is not None:
            if loader is not None:
                self._compare_classes(loader.dataset)
            if cfg.get('optim_wrapper'):
                self._train_a_step()
        return self

    def _add(self, check: Check) -> None:
        self.checks.append(check)
        if self.tell:
            self.tell(check)

    def _skip(self, about: str, why: str) -> None:
        self._add(Check(about, [], f'not checked, {why}', is_done=False))

    def _build_network(self, sources: list[Source]) -> None:
        cfg = copy.deepcopy(self.cfg)
        self._has_its_weights = all(source.is_here for source in sources)
        if not self._has_its_weights:
            # The cost of a step is that of the network as it is: with its frozen layers.
            remove_pretrained(cfg, unfreeze=False)
        if cfg.get('data_preprocessor'):
            # As the runner does.
            cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
        try:
            with quiet(logging.ERROR):
                model = built(cfg)
                with observe_loading(model, self._note_loaded):
                    if hasattr(model, 'init_weights'):
                        model.init_weights()
                    if self._has_its_weights and cfg.get('load_from'):
                        _load(model, cfg.load_from, self.trust)
        # A network of another library may raise anything, which is what the user is to read.
        except Exception as error:
            self._add(Check('network', [fault_of(error)]))
            return
        if not self._has_its_weights:
            self.loaded = _would_be_loaded(model, [as_typed(source.key, True) for source in sources])
        self.model = model
        self._add(Check('network', [], 'built' + ('' if self._has_its_weights else ', with random weights')))

    def _note_loaded(self, key: str, own: Tensor, value: Any) -> None:
        if own.shape == getattr(value, 'shape', None):
            self.loaded.add(own)

    def _read_data(self) -> Any:
        try:
            with quiet():
                ((_, loader), *_) = loaders(self.cfg, 'train')
                loader = built_here(loader)
                self.batches, self.loading_seconds = first_batches(loader, self.number)
        except Exception as error:
            self._add(Check('training data', [fault_of(error)]))
            return None
        self.has_data, self.iterations = True, _length(loader)
        images = getattr(loader, 'dataset', ())
        note = f'{len(images):,} images' if hasattr(images, '__len__') else 'read'
        faults = []
        if self.model is not None:
            classes, ignored = class_numbers(self.model)
            for batch in self.batches:
                faults += _label_faults(batch, classes, ignored)
        self._add(Check('training data', list(dict.fromkeys(faults)), note))
        return loader

    def _read_evaluation(self) -> None:
        cfg = self.cfg
        try:
            with quiet():
                sizes = [len(built_here(loader).dataset) for _, loader in loaders(cfg, 'val')]
                metrics = cfg.get('val_evaluator') or []
                # A list of evaluators belongs to a list of loaders.
                if not isinstance(metrics, list) or len(sizes) == 1:
                    Evaluator(copy.deepcopy(metrics))
        except Exception as error:
            self._add(Check('data and metrics of the evaluation', [fault_of(error)]))
            return
        self._add(Check('data and metrics of the evaluation', [], f'{sum(sizes):,} images'))

    def _compare_classes(self, dataset: Any) -> None:
        others = other_class_numbers(self.model, dataset)
        hooks = [
            h for h in self.cfg.get('custom_hooks') or [] if local_name(h.get('type'), ('mmkerv',)) == 'LabelRangeHook'
        ]
        refuses = not any(hook.get('other_classes') == 'warn' for hook in hooks)
        faults = [other.text for other in others if other.is_main and refuses]
        notes = [other.text for other in others if not (other.is_main and refuses)]
        self._add(Check('classes of data and heads', faults, '; '.join(notes)))

    def _train_a_step(self) -> None:
        about = 'a training step'
        if faults := amp_faults(self.cfg):
            self._add(Check(about, faults))
            return
        try:
            if not self.batches:
                shape = training_shape(self.cfg, self.model)
                self.batches = [random_batch(self.cfg, self.model, shape)]
        except Exception as error:
            self._skip(about, f'no random images: {fault_of(error)}')
            return
        device = get_device()
        try:
            # mmengine warns of each parameter that is not trained.
            with quiet(logging.ERROR):
                self.model = self.model.to(device).train()
                wrapper = trial_optimizer(self.cfg, self.model)
                begin = time.perf_counter()
                loss = trial_step(self.model, wrapper, self.batches[0])
                self.step_seconds = time.perf_counter() - begin
        except Exception as error:
            self._add(Check(about, [fault_of(error)]))
            return
        broken = next((name for name, p in self.model.named_parameters() if not torch.isfinite(p).all()), None)
        what = f'on {device} with {"a batch of the data" if self.has_data else "random images"}, loss {loss:.4g}'
        self.wrapper, found = wrapper, ''
        if not math.isfinite(loss):
            found = f'the loss is {loss}'
        elif broken:
            found = f'the gradient of {broken} is not finite'
        if found and not self._has_its_weights:
            # Frozen statistics and layers are useful only with the weights they belong to.
            self._add(Check(about, [], f'{what}: {found} without the pretrained weights', is_done=False))
            return
        advice = 'look at the data, the precision and the start of the network; mmkerv.LossGuardHook names the layer'
        self._add(Check(about, [f'{found}, {what}; {advice}'] if found else [], what))


@contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Build and train without what libraries say of it.

    Args:
        level: level of what is still said.

    Example:
        >>> with quiet():
        ...     MMLogger.get_current_instance().info('nobody reads this')
    """
    handlers = MMLogger.get_current_instance().handlers
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(max(handler.level, level))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for handler, level in zip(handlers, levels):
            handler.setLevel(level)


def fault_of(error: Exception) -> str:
    """Return what an error says, with the place in the config if it has one, in one line.

    Example:
        >>> fault_of(TypeError("missing 'samples'"))
        "TypeError: missing 'samples'"
    """
    text = described(error)
    return ' '.join(text.split()) if text else reason(error)


def _weights(sources: list[Source], is_placed: bool) -> Check:
    faults = [as_typed(source.fault, is_placed) for source in sources if source.fault]
    notes = [f'{source.name} ({"here" if source.is_here else "not downloaded yet"})' for source in sources]
    return Check('weights that the training starts from', faults, ', '.join(dict.fromkeys(notes)) or 'none')


def _load(model: nn.Module, source: str, trust: bool) -> None:
    """Load what fits of ``load_from``, as a training does."""
    address = web_address(source)
    file = Path(source).expanduser() if address is None else cached_file(address)
    own = model.state_dict()
    weights = fitted_names(unwrapped_names(weights_of(safe_load(file, trust=trust), source)), own, source)
    fitting = {key: value for key, value in weights.items() if key in own and own[key].shape == value.shape}
    model.load_state_dict(fitting, strict=False)


def _would_be_loaded(model: nn.Module, keys: list[str]) -> set[Tensor]:
    """Return the parameters of those parts of a network that start from checkpoints, without those of operators."""
    parts = set()
    for key in keys:
        part = key.split('.')[1] if key.startswith('model.') else ''
        # A segmentor hands `pretrained` to its backbone.
        parts.add('backbone' if part == 'pretrained' else part)
    operators = [m for m in model.modules() if isinstance(m, ConvNd)]
    own = {parameter for operator in operators for parameter in operator.parameters()}
    return {
        parameter
        for name, parameter in model.named_parameters()
        if parameter not in own and {name.partition('.')[0], '', 'init_cfg'} & parts
    }


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        # An iterable data set.
        return None


def _label_faults(batch: Any, classes: int | None, ignored: int | None) -> list[str]:
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    inputs = batch.get('inputs') if isinstance(batch, dict) else None
    faults = []
    for number, sample in enumerate(samples if isinstance(samples, (list, tuple)) else ()):
        image = inputs[number] if isinstance(inputs, (list, tuple, Tensor)) else None
        try:
            check_sample(sample, classes, ignored, image)
        except DataError as error:
            faults.append(str(error))
    return faults
