"""Stages of a backbone, found by the names and the order of its modules.

Stages count from 1 in the order in which the network computes them, whatever the library calls them. What lies between
two stages belongs to the later one; the stem is what comes before the first.
"""

import re
from collections.abc import Iterable

from torch import nn

# Children that are one stage each, with the number that upstream gives them.
_NUMBERED = re.compile(r'(?:layer|stage|stage_|level|block|blocks|conv_res_block|s|(?:\w+_)?denseblock)(\d+)$')
# Of these, names that are common elsewhere: a module with a single such child has no stages.
_COMMON = re.compile(r'(?:block|blocks|s)\d+$')
# Children that hold the stages as a list; the parallel branches of BiSeNetV2, DDRNet and PIDNet too.
_LIST = re.compile(r'(?:stages|layers|blocks|(?:\w+_)?branch(?:_layers)?)$')
# The same flattened, as in timm's features_only networks.
_FLATTENED = re.compile(r'(?:stages|layers|blocks)_(\d+)$')
# What lies between two stages: behind the stage of its number, or before it; then number 1 is the stem.
_BEHIND = re.compile(r'(?:\w+_)?transition(\d+)$')
_BEFORE = re.compile(r'patch_embed(\d+)$')
_LISTS_BEHIND, _LISTS_BEFORE = ('transitions',), ('patch_embeds',)
_LISTS_WITHIN = ('position_encodings', 'pos_block')
# Networks whose list of stages has another name, and, if layers between the stages are items of the list too, where the
# first stage is.
_OTHER_LISTS = {
    ('mmpretrain', 'EfficientFormer'): ('network', None),
    ('mmpretrain', 'PoolFormer'): ('network', 0),
    ('mmpretrain', 'RIFormer'): ('network', 0),
    ('mmseg', 'UNet'): ('encoder', None),
    ('torchvision', 'ConvNeXt'): ('features', 1),
    ('torchvision', 'SwinTransformer'): ('features', 1),
}


def find_stages(model: nn.Module, names: Iterable[str]) -> dict[str, int | None] | None:
    """Return the stage of each module: its number from 1, 0 before the first stage, ``None`` outside.

    Args:
        model: any network; a detector's stages are its backbone's.
        names: of the modules that are asked for.

    Returns:
        The stages by name; ``None`` for a model in which no stages are found.

    Example:
        >>> stem, down, blocks = (nn.ModuleList(nn.Conv2d(1, 1, 1) for _ in range(n)) for n in (1, 2, 2))
        >>> model = nn.ModuleDict({'stem': stem, 'downsample_layers': down, 'stages': blocks})
        >>> find_stages(model, ['stem.0', 'downsample_layers.0', 'downsample_layers.1', 'stages.1'])
        {'stem.0': 0, 'downsample_layers.0': 0, 'downsample_layers.1': 2, 'stages.1': 2}
    """
    numbers = _numbered_modules(model)
    order = {name: i for i, (name, _) in enumerate(model.named_modules(remove_duplicate=False))}
    first = min((order[name] for name, number in numbers.items() if number), default=None)
    if first is None:
        return None
    return {name: _stage(name, numbers, order[name] < first) for name in names}


def _stage(name: str, numbers: dict[str, int | None], is_before: bool) -> int | None:
    place = name
    while place not in numbers and place:
        place = place.rpartition('.')[0]
    return numbers.get(place, 0 if is_before else None)


def _numbered_modules(model: nn.Module) -> dict[str, int | None]:
    """Return the modules that are stages, stems or between stages, by name; modules below them are left out."""
    numbers: dict[str, int | None] = {}
    todo = [('', model)]
    while todo:
        prefix, module = todo.pop()
        dot = f'{prefix}.' if prefix else ''
        found = {f'{dot}{name}': number for name, number in _parts(module).items()}
        numbers.update(found)
        for name, child in module.named_children():
            if not any(place == f'{dot}{name}' or place.startswith(f'{dot}{name}.') for place in found):
                todo.append((f'{dot}{name}', child))
    return numbers


def _parts(module: nn.Module) -> dict[str, int | None]:
    """Return the numbers of the parts of one module, by their names in it."""
    children = dict(module.named_children())
    parts = _numbered_children(children)
    for name, child in children.items():
        if match := _FLATTENED.match(name):
            parts[name] = int(match[1]) + 1
        elif _LIST.match(name) and _is_list(child):
            parts.update(_items(name, child, getattr(module, 'stage_indices', None)))
    for kind in type(module).__mro__:
        name, start = _OTHER_LISTS.get((kind.__module__.partition('.')[0], kind.__name__), (None, None))
        if name in children:
            parts.update(_items(name, children[name]) if start is None else _alternating(name, children[name], start))
    if any(parts.values()):
        parts.update(_between(children, parts))
    return parts


def _is_list(module: nn.Module) -> bool:
    """Return whether a module is a list of blocks: the layers of a transformer's FFN are single ones."""
    children = dict(module.named_children())
    blocks = all(isinstance(m, (nn.Conv2d, nn.Identity)) or any(True for _ in m.children()) for m in children.values())
    return bool(children) and blocks and all(name.isdecimal() for name in children)


def _numbered_children(children: dict[str, nn.Module]) -> dict[str, int | None]:
    numbers = {name: int(match[1]) for name in children if (match := _NUMBERED.match(name))}
    common = [name for name in numbers if _COMMON.match(name)]
    if len(common) == 1:
        del numbers[common[0]]
    # torchvision's ShuffleNetV2 counts from stage2 on; HRNet does so after layer1.
    shift = min(numbers.values(), default=1) - 1 if all(name.startswith('stage') for name in numbers) else 0
    return _refined({name: number - max(shift, 0) for name, number in numbers.items()}, children)


def _items(name: str, stages: nn.Module, last_blocks: dict[int, int] | None = None) -> dict[str, int | None]:
    """Number the items of a list; leading single convolutions are the stem."""
    items = dict(stages.named_children())
    if isinstance(last_blocks, dict) and last_blocks:
        # MViT: blocks of all stages in one list, and the last block of each.
        parts = {key: 1 + sum(int(key) > last for last in last_blocks) for key in items}
    else:
        stem = next((i for i, item in enumerate(items.values()) if not _is_convolution(item)), 0)
        parts = _refined({key: max(i + 1 - stem, 0) for i, key in enumerate(items)}, items)
    return {f'{name}.{key}': number for key, number in parts.items()}


def _refined(numbers: dict[str, int], modules: dict[str, nn.Module]) -> dict[str, int | None]:
    """Correct the numbers of consecutive stages for what is no part of them."""
    parts: dict[str, int | None] = dict(numbers)
    if not parts:
        return parts
    *_, last = parts
    # The last of several stages is outside if it is one convolution: EfficientNet, MobileNetV3, ShuffleNetV2.
    if _is_convolution(modules[last]) and not all(_is_convolution(modules[name]) for name in parts):
        parts[last] = None
    # PVT and MiT hold the patch embeddings in the stages; the first one is the stem, as where it is outside.
    first = next(iter(parts))
    for name, child in modules[first].named_children():
        if numbers[first] == 1 and 'PatchEmbed' in type(child).__name__:
            parts[f'{first}.{name}'] = 0
        break
    # A downsampling at the end of a stage leads into the next one: Swin, DaViT, TinyViT. Then the last stage has none;
    # in FasterNet, which computes it first, the last one has it.
    children = {name: [child for child, _ in modules[name].named_children()] for name in numbers}
    if 'downsample' not in children[last]:
        for name, names in children.items():
            if 'downsample' in names and 'blocks' in names[: names.index('downsample')] and numbers[name]:
                parts[f'{name}.downsample'] = numbers[name] + 1
    return parts


def _alternating(name: str, items: nn.Module, start: int) -> dict[str, int | None]:
    """Number the items of a list in which stages and layers between them alternate, from ``start`` on."""
    return {f'{name}.{i}': max((i - start + 1) // 2 + 1, 0) if i >= start else 0 for i in range(len(list(items)))}


def _is_convolution(module: nn.Module) -> bool:
    """Return whether a module is one convolution, alone or with norm and activation as in mmcv's ConvModule."""
    return isinstance(module, nn.Conv2d) or any(kind.__name__ == 'ConvModule' for kind in type(module).__mro__)


def _between(children: dict[str, nn.Module], parts: dict[str, int | None]) -> dict[str, int | None]:
    """Number what lies between the stages of one module."""
    found: dict[str, int | None] = {}
    for name, child in children.items():
        items = [key for key, _ in child.named_children()]
        if match := _BEHIND.match(name):
            found[name] = int(match[1]) + 1
        elif match := _BEFORE.match(name):
            found[name] = int(match[1]) if int(match[1]) > 1 else 0
        elif name in _LISTS_BEHIND:
            found.update({f'{name}.{key}': i + 2 for i, key in enumerate(items)})
        elif name in _LISTS_BEFORE:
            found.update({f'{name}.{key}': i + 1 if i else 0 for i, key in enumerate(items)})
        elif name in _LISTS_WITHIN:
            found.update({f'{name}.{key}': i + 1 for i, key in enumerate(items)})
        elif name == 'downsample_layers':
            # As many as stages: before each of them, the first being the stem (ConvNeXt). One less: between them.
            stages = sum(1 for number in parts.values() if number)
            if len(items) == stages:
                found.update({f'{name}.{key}': i + 1 if i else 0 for i, key in enumerate(items)})
            else:
                found.update({f'{name}.{key}': i + 2 for i, key in enumerate(items)})
    return found
