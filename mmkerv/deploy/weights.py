"""``mmkerv.load`` and ``mmkerv.list_weights``: published weights by name, from a folder of ``mmkerv release``."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from mmkerv.deploy.trained_model import build_model
from mmkerv.deploy.weights_index import FOLDED, INDEX, TRAINED, read_file, read_index
from mmkerv.engine.checkpoint.layouts import weights_of
from mmkerv.engine.checkpoint.safe_load import safe_load
from mmkerv.engine.config.as_data import config_from_text, import_customs
from mmkerv.engine.config.patches import patched
from mmkerv.engine.scope import library_of
from mmkerv.errors import ConfigError, UnsafeCheckpointError
from mmkerv.ops.core.arguments import boolean, did_you_mean
from mmkerv.utils import printable


class Weights(NamedTuple):
    """Published weights of a network, as the index describes them.

    Args:
        name: name for :func:`load`.
        task: what the network does.
        data: what it was trained on.
        operator: its operator with its settings, ``'plain'`` for none.
        metric: name of the metric.
        value: the metric of the trained form; ``None`` if it was not measured.
        forms: ``'trained'``, and ``'folded'`` if there is one.
        size: bytes of all its weights.

    Example:
        >>> print(Weights('resnet20_coc', 'classification', 'CIFAR10', 'coc', 'accuracy/top1', 61.5, ('trained',), 1))
        resnet20_coc: classification, CIFAR10, coc, accuracy/top1 61.5; trained, 0.00 MB
    """

    name: str
    task: str
    data: str
    operator: str
    metric: str | None
    value: float | None
    forms: tuple[str, ...]
    size: int

    def __str__(self) -> str:
        value = f', {self.metric} {self.value:g}' if self.value is not None else ''
        forms = ' and '.join(self.forms)
        return f'{self.name}: {self.task}, {self.data}, {self.operator}{value}; {forms}, {self.size / 1e6:.2f} MB'


def list_weights(folder: str | Path) -> list[Weights]:
    """Return what a folder of published weights holds; no weights are read.

    Args:
        folder: folder with an ``index.json``.

    Raises:
        FileNotFoundError: if the folder or its index is not there.
        ConfigError: if the index is damaged, something else, or of a later version of mmkerv.

    Example:
        >>> [weights.name for weights in list_weights('weights')]  # doctest: +SKIP
        ['resnet32_cifar10_folder_plain', 'resnet32_cifar10_folder_coc']
    """
    return [_described(name, network) for name, network in read_index(folder)['networks'].items()]


def _described(name: str, network: dict[str, Any]) -> Weights:
    forms = network['forms']
    values = forms.get(TRAINED, forms.get(FOLDED)).get('metrics')
    metric = network.get('metric')
    value = values.get(metric) if isinstance(values, dict) and isinstance(metric, str) else None
    data = network.get('data')
    return Weights(
        name=name,
        task=printable(str(network.get('task', 'unknown'))),
        data=printable(str(data.get('name') if isinstance(data, dict) else data)),
        operator=printable(str(network.get('operator', 'unknown'))),
        metric=printable(metric) if isinstance(metric, str) else None,
        value=float(value) if isinstance(value, (int, float)) else None,
        forms=tuple(forms),
        size=sum(form['weights']['size'] for form in forms.values()),
    )


def load(name: str, folder: str | Path, folded: bool = False, device: str | torch.device = 'cpu') -> nn.Module:
    """Load a published network, in evaluation mode.

    The hash of each file is compared with the index before the file is read. Config and weights are read as data: no
    code in the folder is run. The hashes tell of damage; whether the folder is what somebody published is told by
    where it comes from.

    Args:
        name: name of the network, see :func:`list_weights`.
        folder: folder with an ``index.json``.
        folded: whether to load the folded form, of plain convolutions, instead of the trained one.
        device: torch device.

    Returns:
        The network. It has the attributes ``cfg`` and ``dataset_meta``, which functions of its library ask for.

    Raises:
        FileNotFoundError: if the folder, its index or a file is not there.
        ConfigError: for a name or a form that the folder does not have, a damaged index or one of a later version.
        UnsafeCheckpointError: if a file is damaged, or holds more than data.
        CheckpointMismatchError: if the weights are not those of the network of the config.

    Example:
        >>> model = mmkerv.load('resnet32_cifar10_folder_coc', 'weights', folded=True)  # doctest: +SKIP
    """
    networks, folded = read_index(folder)['networks'], boolean(folded, 'folded')
    if name not in networks:
        raise ConfigError(
            f'{str(folder)!r} has no weights {name!r}{did_you_mean(name, networks)} '
            f'mmkerv.list_weights({str(folder)!r}) lists them'
        )
    forms, wanted = networks[name]['forms'], FOLDED if folded else TRAINED
    if wanted not in forms:
        reason = printable(str(networks[name].get('kept') or ''), 500)
        raise ConfigError(
            f'{name!r} has no {wanted} form{f" ({reason})" if folded and reason else ""}; give folded={not folded}'
        )
    source = str(Path(folder, forms[wanted]['weights']['name']))
    config = str(Path(folder, forms[wanted]['config']['name']))
    try:
        text = read_file(folder, forms[wanted]['config']).decode()
    except UnicodeDecodeError as error:
        raise UnsafeCheckpointError(f'config {config!r} was not read: it is no text ({error})') from error
    stream = io.BytesIO(read_file(folder, forms[wanted]['weights']))
    stream.name = source
    return _built(config_from_text(text, config), safe_load(stream), config, source).to(device)


def _built(cfg: Any, checkpoint: Any, config: str, source: str) -> nn.Module:
    """Return the network of a config with weights."""
    import_customs(cfg, config)
    if not isinstance(cfg.get('model'), dict):
        raise ConfigError(
            f'config {config!r} has no model, so it is none of {INDEX}; copy or download the folder again'
        )
    with patched(library_of(cfg)):
        model = build_model(cfg, weights_of(checkpoint, source), source)
    meta = checkpoint.get('meta') if 'state_dict' in checkpoint else None
    known = meta.get('dataset_meta') if isinstance(meta, dict) else None
    # As mmdet's and mmseg's init_model, and mmpretrain's get_model, name them.
    model.cfg = model._config = cfg
    model.dataset_meta = model._dataset_meta = known if isinstance(known, dict) else {}
    return model
