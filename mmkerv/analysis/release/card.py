"""Model cards of published weights, in Markdown."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmkerv.analysis.comparison.record import main_metric
from mmkerv.analysis.comparison.results import short
from mmkerv.analysis.release.network import Network
from mmkerv.deploy.weights_index import FOLDED, TRAINED, File
from mmkerv.engine.config.schedule import length
from mmkerv.engine.scope import library_of
from mmkerv.errors import ConfigError

PURPOSE = (
    'A demonstration of an operator, to load, fold, export or test tools with. It is no pretrained backbone: the '
    'training was short, the data are few, and nothing but this task was tried.'
)
NOT_MEASURED = 'not measured'


def card(network: Network, files: Mapping[str, tuple[File, File]], facts: Mapping[str, Any]) -> str:
    """Return the model card of a network.

    Args:
        network: the network.
        files: config and weights of each form.
        facts: ``license``, ``date`` and ``versions`` of the release.

    Example:
        >>> print(card(network, files, facts).splitlines()[0])  # doctest: +SKIP
        # resnet20_coc
    """
    source, name = network.source, network.source.name
    metric = metric_of(network)
    lines = [
        f'# {name}',
        '',
        f'{network.task.capitalize()} with `{library_of(network.cfg)}`. {PURPOSE}',
        '',
        *_table(network, files, metric),
        '',
        *_checks(network, metric),
        '',
        '## Training',
        '',
        f'* Data: {network.data}{_sizes(network.images)}.',
        f'* Operator: {_code(network.operator)}. {_sentence(network.cost.replaced)}',
        f'* Schedule: {schedule(network.cfg)}.',
        f'* Seed: {_seeds(network, metric)}',
        f'* Date: {source.date}.',
        '',
        '## Release',
        '',
        f'* Date: {facts["date"]}. Versions: {facts["versions"]}.',
        f'* Licence of the weights: {facts["license"] or "not stated; ask whoever published them"}. The data have '
        'licences of their own.',
        '',
        '```python',
        'import mmkerv',
        '',
        f'model = mmkerv.load({name!r}, FOLDER{"" if TRAINED in files else ", folded=True"})',
        '```',
    ]
    return '\n'.join(lines) + '\n'


def metric_of(network: Network) -> str | None:
    """Return the name of the metric that is told of a network, ``None`` if it has none.

    Example:
        >>> metric_of(network)  # doctest: +SKIP
        'accuracy/top1'
    """
    known = [form.metrics for form in network.forms.values() if form.metrics] or [network.source.metrics]
    return main_metric(known)


def schedule(cfg: Config) -> str:
    """Return length, batch size and optimizer of a training, in words.

    Example:
        >>> schedule(Config(dict(train_cfg=dict(max_epochs=8), train_dataloader=dict(batch_size=4))))
        '8 epochs, batches of 4'
    """
    parts = []
    try:
        parts.append(str(length(cfg)))
    except ConfigError:
        parts.append('of unknown length')
    loader = cfg.get('train_dataloader') or {}
    if isinstance(loader, dict) and loader.get('batch_size'):
        parts.append(f'batches of {loader["batch_size"]}')
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    if optimizer.get('type'):
        settings = ', '.join(f'{key} {optimizer[key]:g}' for key in ('lr', 'momentum', 'weight_decay')
                             if isinstance(optimizer.get(key), (int, float)))  # fmt: skip
        parts.append(f'{optimizer["type"]}{f" ({settings})" if settings else ""}')
    return ', '.join(parts)


def _table(network: Network, files: Mapping[str, tuple[File, File]], metric: str | None) -> list[str]:
    """Return a table with a column for each form."""
    rows: dict[str, list[str]] = {}

    def add(head: str, cell: Any) -> None:
        rows.setdefault(head, []).append(str(cell))

    counts = network.cost.complexity
    height, width = network.cost.shape
    for kind, (config, weights) in files.items():
        form = network.forms[kind]
        add('weights', f'`{weights.name}`')
        add('size', f'{weights.size / 1e6:.3g} MB, {"float16" if form.half else "float32"}')
        add('SHA-256', f'`{weights.sha256}`')
        add('config', f'`{config.name}`')
        add(metric or 'metric', _value(form.metrics[metric]) if form.metrics and metric else NOT_MEASURED)
        if counts:
            folded = kind == FOLDED
            add('parameters', f'{counts.folded_parameters if folded else counts.parameters:,}')
            # The trained network computes its kernels for every batch.
            number = counts.folded if folded else counts.image + counts.kernels
            add(f'multiply-adds, {height} x {width} image', short(number))
    head = ['', *files]
    lines = [head, ['---'] * len(head), *([key, *cells] for key, cells in rows.items())]
    return [f'| {" | ".join(line)} |' for line in lines]


def _checks(network: Network, metric: str | None) -> list[str]:
    lines = []
    measured = any(form.metrics for form in network.forms.values())
    if measured:
        lines.append('The metric is that of these files on the test data of the config, as the evaluator rounds it.')
    recorded = network.source.metrics.get(metric)
    if recorded is not None:
        lines.append(f'At the end of the training, {metric} was {_value(recorded)}.')
    if network.difference is not None:
        how_far = f'by at most {network.difference:.1e} of the largest output' if network.difference else 'in no bit'
        lines.append(
            'On a random image and in float32, the raw outputs of the folded network differ from those of the trained '
            f'one {how_far}.'
        )
    if network.kept:
        lines.append(f'There is no folded form: {network.kept}.')
    return [' '.join(lines)] if lines else []


def _sizes(images: Mapping[str, int]) -> str:
    words = [f'{number:,} samples of {phase}' for phase, number in images.items()]
    return f'; {" and ".join(words)}' if words else ''


def _seeds(network: Network, metric: str | None) -> str:
    seed = (network.cfg.get('randomness') or {}).get('seed')
    text = 'not fixed' if seed is None else str(seed)
    values = network.source.values
    if len(values) < 2:
        return f'{text}. One seed: how far the metric spreads over seeds is not known.'
    all_of_them = ', '.join(f'{number}: {_value(value)}' for number, value in sorted(values.items()))
    return f'{text}. One of {len(values)} seeds; {metric} at the end of their trainings: {all_of_them}.'


def _value(number: float) -> str:
    return f'{number:.4g}'


def _code(text: str) -> str:
    return f'`{text}`' if ' ' not in text else text


def _sentence(text: str) -> str:
    return f'{text[:1].upper()}{text[1:]}.'
