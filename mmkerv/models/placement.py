"""Placement: select convolutions of a built network and replace them by an operator."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import nn

from mmkerv.errors import ArgumentError, ArgumentTypeError
from mmkerv.models.fusing_libraries import fold_before_fusing
from mmkerv.models.inventory import EVEN, HOOKED, LEFT_OUT, note_kept, sizes
from mmkerv.models.kept_layers import kept_by
from mmkerv.models.replacement import Operator, is_plain, peculiarity, size
from mmkerv.models.stages import find_stages
from mmkerv.ops.core.arguments import boolean, integer, integers, reject_unknown
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.references import replace_modules
from mmkerv.utils import log


class Where(NamedTuple):
    """Rule that selects convolutions; all its conditions must hold.

    Args:
        stem: whether to select convolutions before the first stage.
        stages: numbers of the stages to select, from 1; ``None`` selects every stage and everything outside the stages
            but the stem (necks, heads). What lies between two stages belongs to the later one.
        kernel_sizes: ``None`` the sizes that the operator takes: all, or with most operators all but 1x1; ``'>1'``
            every size but 1x1, ``'all'``, or a sequence of sizes such as ``(3, (1, 7))``. A rule that chooses among
            the layers that a network has, as for sharing and in hooks, takes ``None`` for ``'all'``.
        depthwise: whether to select depthwise convolutions (as many groups as input channels, more than one).
        names: regular expressions, of which one must match somewhere in the convolution's name; ``None`` matches any.

    Example:
        >>> Where.of({'stages': (3, 4), 'depthwise': False})
        Where(stem=True, stages=(3, 4), kernel_sizes=None, depthwise=False, names=None)
    """

    stem: bool = True
    stages: tuple[int, ...] | None = None
    kernel_sizes: str | tuple[tuple[int, int], ...] | None = None
    depthwise: bool = True
    names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, where: 'Where | dict | None') -> 'Where':
        """Check the argument ``where`` of a config.

        Raises:
            ValueError: for a value out of range.
            TypeError: for an unknown key or a value of the wrong type.

        Example:
            >>> Where.of(dict(kernel_sizes=[3])).kernel_sizes
            ((3, 3),)
        """
        if where is not None and not isinstance(where, (dict, Where)):
            raise ArgumentTypeError(f'where must be a dict with some of {cls._fields}, got {where!r}')
        fields = where._asdict() if isinstance(where, Where) else dict(where or {})
        reject_unknown('where', [key for key in fields if key not in cls._fields], cls._fields)
        rule = cls(**fields)
        boolean(rule.stem, 'where.stem')
        boolean(rule.depthwise, 'where.depthwise')
        stages, sizes, names = rule.stages, rule.kernel_sizes, rule.names
        if stages is not None:
            stages = tuple(integer(s, 'where.stages', 1) for s in _sequence(stages, 'stages'))
        if sizes not in (None, '>1', 'all'):
            sizes = tuple(integers(s, 2, 'where.kernel_sizes', 1) for s in _sequence(sizes, 'kernel_sizes'))
        if names is not None:
            names = tuple(_sequence([names] if isinstance(names, str) else names, 'names'))
            for name in names:
                _check_pattern(name)
        return cls(rule.stem, stages, sizes, rule.depthwise, names)

    def selects(self, name: str, conv: nn.Conv2d, stage: int | None, holder: str | None = None) -> bool:
        """Return whether the rule selects a convolution.

        Args:
            name: of the convolution in the model.
            conv: the convolution.
            stage: number of its stage, 0 for the stem, ``None`` outside.
            holder: name of the kept layer that the convolution is a part of; then it is selected only by an expression
                in ``names`` that matches its name but not that of the layer.

        Example:
            >>> Where(stages=(1,)).selects('layer2.0.conv1', nn.Conv2d(8, 8, 3), 2)
            False
        """
        if stage == 0:
            stage_matches = self.stem
        else:
            stage_matches = self.stages is None or stage in self.stages
        if self.kernel_sizes in (None, '>1'):
            size_matches = max(conv.kernel_size) > 1
        else:
            size_matches = self.kernel_sizes == 'all' or conv.kernel_size in self.kernel_sizes
        is_depthwise = conv.groups == conv.in_channels > 1
        if self.names is None:
            name_matches = holder is None
        else:
            name_matches = any(_names(pattern, name, holder) for pattern in self.names)
        return stage_matches and size_matches and name_matches and (self.depthwise or not is_depthwise)


def convert(model: nn.Module, conv_cfg: dict, where: Where | dict | None = None) -> nn.Module:
    """Replace convolutions of a built, possibly trained network by an operator, in place.

    The operator takes over the parameters themselves, so optimizers and shared parameters remain valid, and an operator
    that starts as the identity computes what the network computed before; the weights of a ``WeightedConv`` are divided
    by its densities, so that it does too. A ``LowRankConv`` starts near the convolution: the weight is decomposed, and
    the log has the relative error of each layer. Any other operator without a basic kernel (CKConv, the separable ones)
    starts with a new kernel, and the log says so. Only exact ``nn.Conv2d``, mmcv's wrapper of it
    and mmcv's ``Conv2dAdaptivePadding`` are replaced, the last by an operator that pads and folds accordingly; other
    classes (deformable, weight-standardised, parametrized) and convolutions with hooks are kept, and with a kept layer
    the convolutions inside it (offsets of deformable layers, attention in plugins), unless ``where.names`` matches
    their names beyond the layer's. A kernel of even size, which CoCConv and CKConv do not have, stays plain. A shared
    module stays shared. One line of the log reports what was replaced and what was kept.

    Args:
        model: network of any library, including torchvision and timm.
        conv_cfg: as in OpenMMLab's configs, ``dict(type='CoCConv', ...)``; the type is the name of an operator or of a
            convolution registered with mmengine, such as mmcv's ``'ConvWS'``, or a class.
        where: rule that selects the convolutions, see :class:`Where`; by default all that the operator takes, which
            with most operators are all but 1x1.

    Returns:
        ``model``.

    Raises:
        ValueError: if nothing is replaced, if the model has no stages but ``where`` names some, if the type is unknown,
            or if the operator does not exist in the shape of a selected convolution, which the message names; an even
            size only if ``where.kernel_sizes`` lists it or an expression of ``where.names`` matches nothing else. The
            network is then unchanged.
        TypeError: for an unknown key of ``where`` or of ``conv_cfg``.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1))
        >>> type(convert(model, dict(type='CoCConv'))[0]).__name__
        'CoCConv2d'
    """
    return replace_convolutions(model, conv_cfg, Where.of(where), set(model.modules()))


def replace_convolutions(model: nn.Module, conv_cfg: dict, rule: Where, trained: set[nn.Module]) -> nn.Module:
    """Replace convolutions as :func:`convert` does, of a network that is perhaps still to be initialised.

    Args:
        model: network.
        conv_cfg: as in :func:`convert`.
        rule: which convolutions.
        trained: convolutions whose weights are worth decomposing, for an operator without a basic kernel that starts
            from a decomposition; see :func:`initialised`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(8, 8, 3))
        >>> type(replace_convolutions(model, dict(type='LowRankConv'), Where(), set())[0]).__name__
        'LowRankConv2d'
    """
    operator = Operator.of(conv_cfg)
    if rule.kernel_sizes is None:
        rule = rule._replace(kernel_sizes='all' if operator.takes_1x1 else '>1')
    convs = _convolutions(model)
    stages, holders = _stages(model, convs, rule), kept_by(model)
    replaced: dict[nn.Module, nn.Module] = {}
    left: dict[nn.Module, None] = {}
    even: dict[nn.Module, ArgumentError] = {}
    special = []
    for name, conv in convs.items():
        if conv in replaced or not rule.selects(name, conv, stages[name], holders.get(conv)):
            continue
        if not is_plain(conv):
            special.append(conv)
            continue
        try:
            new = operator.replacement(name, conv)
        except ArgumentError as error:
            # An even size that where lists is asked for.
            if not isinstance(rule.kernel_sizes, str) or not operator.lacks_even_size(conv):
                raise
            even[conv] = error
            continue
        if new is None:
            left[conv] = None
        else:
            replaced[conv] = new
    for pattern in rule.names or ():
        named = [
            conv
            for name, conv in convs.items()
            if conv in replaced or conv in left or conv in even
            if _names(pattern, name, holders.get(conv))
        ]
        if named and all(conv in even for conv in named):
            raise even[named[0]]
    kept = [conv for conv in convs.values() if conv not in replaced]
    if not replaced and not (left and operator.always_plain):
        found = []
        if left:
            found.append(f'what it leaves plain ({sizes(left)}); select others{operator.advice_for_plain}')
        if even:
            found.append(f'kernels of even size ({sizes(even)}), which it does not have')
        if special:
            found.append(
                f'classes that are not replaced ({sizes(special)}): only exact nn.Conv2d without hooks are, because '
                'others compute something else'
            )
        parts = [c for name, c in convs.items() if c in holders and rule.selects(name, c, stages[name])]
        if parts:
            found.append(
                f'parts of layers that are kept ({sizes(parts)}, such as one of {holders[parts[0]]!r}); select these '
                'with where.names'
            )
        if found:
            reason = f'selects only {"; and ".join(found)}'
        else:
            reason = 'selects none of them; relax where, or convert another part of the model'
        raise ArgumentError(
            f'no convolution was replaced by {operator.name}: the model has {sizes(kept) or "none"}, and '
            f'where={rule._asdict()} {reason}'
        )
    stuck = replace_modules(model, {conv: conv for conv in replaced})
    if stuck:
        names = {conv: name for name, conv in convs.items()}
        places = '; '.join(f'{names[conv]} in {place}' for conv, place in list(stuck.items())[:3])
        raise ArgumentError(
            f'{len(stuck)} of the selected convolutions are also used where they cannot be replaced: {places}; there '
            'the model would go on using the plain ones: leave them out with where.names'
        )
    replace_modules(model, replaced)
    note_kept(kept, LEFT_OUT)
    note_kept((conv for conv in special if peculiarity(conv).endswith(HOOKED)), HOOKED)
    note_kept(even, EVEN)
    started = _start_from_plain(replaced)
    errors = _decompose(model, {conv: new for conv, new in replaced.items() if conv in trained})
    line = f'mmkerv: {len(replaced)} of {len(convs)} convolutions -> {operator.name}'
    if replaced:
        line += f' ({sizes(replaced)})'
    line += f'; kept {len(kept)}'
    if kept:
        line += f' ({sizes(kept)})'
    if even:
        line += f'; {len(even)} even: {", ".join(dict.fromkeys(map(size, even)))}'
    if errors:
        line += f'; {len(errors)} weights were decomposed, with relative errors {min(errors):.3g} to {max(errors):.3g}'
    elif any(getattr(new, 'decomposes_weight', False) for new in replaced.values()):
        line += '; its kernels are newly initialised, and plain weights that are loaded later will be decomposed'
    elif replaced and all(getattr(new, 'weight', None) is not conv.weight for conv, new in replaced.items()):
        line += '; the operator has no basic kernel, so the weights were dropped and its kernels are newly initialised'
    for change, count in started.items():
        line += f'; {count} weights were {change}, so that the network computes what it did'
    if steps := fold_before_fusing(model):
        line += f'; {", ".join(steps)} of this network read weights as kernels, so they fold the operators first'
    log(line)
    return model


def _start_from_plain(replaced: dict[nn.Module, nn.Module]) -> Counter:
    """Let operators that took over a weight start as the plain convolution; return what was done, with its count."""
    done: Counter = Counter()
    seen = set()
    for conv, new in replaced.items():
        # A weight that layers share is changed once.
        if isinstance(new, ConvNd) and new.weight is conv.weight and id(new.weight) not in seen:
            seen.add(id(new.weight))
            if change := new.start_from_plain():
                done[change] += 1
    return done


def _decompose(model: nn.Module, replaced: dict[nn.Module, nn.Module]) -> list[float]:
    """Let operators that decompose weights start from those of the convolutions; return and log the errors."""
    errors, origins = [], {new: conv for conv, new in replaced.items() if getattr(new, 'decomposes_weight', False)}
    for name, new in model.named_modules():
        if new in origins:
            errors.append(new.decompose(origins[new].weight))
            log(f'mmkerv: {name}.weight decomposed to ranks {new.ranks}, relative error {errors[-1]:.3g}')
    return errors


def initialised(model: nn.Module) -> set[nn.Module]:
    """Return the modules whose parameters mmengine's ``init_weights`` will not set, because it has or need not.

    A backbone that is built with its weights, such as mmpretrain's ``TIMMBackbone(pretrained=True)``, says so in
    ``_is_init``, which counts for all that is inside.

    Args:
        model: network that is being built.

    Example:
        >>> len(initialised(nn.Sequential(nn.Conv2d(3, 8, 3))))
        0
    """
    found = set()
    for module in model.modules():
        if getattr(module, '_is_init', False) is True:
            found.update(module.modules())
    return found


def selected(model: nn.Module, where: Where | None, kinds: tuple[type, ...]) -> dict[str, nn.Module]:
    """Return the modules of ``kinds`` that ``where`` selects, by name; a shared module is listed once.

    Args:
        model: any network.
        where: rule; ``None`` selects the stem only in a model without stages.
        kinds: classes of convolutions and operators.

    Raises:
        ValueError: if the model has no stages but ``where`` names some.

    Example:
        >>> list(selected(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)), None, (nn.Conv2d,)))
        ['0', '1']
    """
    convs = {name: m for name, m in model.named_modules() if isinstance(m, kinds)}
    rule = where or Where(stem=find_stages(model, ()) is None)
    if rule.kernel_sizes is None:
        rule = rule._replace(kernel_sizes='all')
    stages, holders = _stages(model, convs, rule), kept_by(model)
    return {name: m for name, m in convs.items() if rule.selects(name, m, stages[name], holders.get(m))}


def _sequence(value: Any, key: str) -> Iterable:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ArgumentTypeError(f'where.{key} must be a sequence, got {value!r}; write ({value!r},)')
    return value


def _names(pattern: str, name: str, holder: str | None) -> bool:
    """Return whether ``pattern`` matches a convolution's name, and not only by matching the kept layer around it."""
    return bool(re.search(pattern, name)) and (holder is None or not re.search(pattern, holder))


def _check_pattern(pattern: Any) -> None:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ArgumentError(f'where.names must be regular expressions, got {pattern!r}: {error}') from error


def _convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    if isinstance(model, nn.Conv2d):
        raise ArgumentError(
            'convert replaces convolutions inside a model, got a single Conv2d; build the operator directly'
        )
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def _stages(model: nn.Module, convs: dict[str, nn.Conv2d], rule: Where) -> dict[str, int | None]:
    """Return the stage of each convolution: its number, 0 before the first stage, ``None`` outside."""
    stages = find_stages(model, convs)
    if stages is not None:
        return stages
    if rule.stages is not None or not rule.stem:
        raise ArgumentError(
            'where.stem and where.stages need a model whose stages have names such as layer1, stage1, layers.0, '
            f'stages.0 or blocks.0; this one has convolutions such as {list(convs)[:3]}; select them with where.names'
        )
    return dict.fromkeys(convs)
