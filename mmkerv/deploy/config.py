"""Config of a folded network: the same network with plain convolutions."""

import copy
from typing import Any

from mmengine.config import Config

from mmkerv.distributions import BUILT_ON
from mmkerv.engine.config.write import by_name
from mmkerv.engine.scope import library_of
from mmkerv.errors import ArgumentError
from mmkerv.models.converted import INJECTED
from mmkerv.models.upstream_backbones import FAMILIES, find_library
from mmkerv.operator_table import operator_class, operator_name
from mmkerv.registry import local_name


def deploy_config(cfg: Config, kept: tuple[str, ...] = (), host_shapes: bool = False) -> Config:
    """Return the config of the network after folding.

    Every ``conv_cfg`` of an operator is removed, or replaced by the operator's ``deploy_cfg``: an operator that folds
    into a shape other than the plain convolution's becomes a ``mmkerv.FoldedConv``. ``mmkerv.ResNet`` and its like
    become upstream's. If the model then no longer needs mmkerv, ``custom_imports``, hooks, the optimizer constructor
    and the optimizer wrapper of mmkerv are removed too, and any OpenMMLab installation can use the config. The
    checkpoint that the training began or went on from is removed in any case.

    Args:
        cfg: config the network was trained with.
        kept: registered names of operators that were not folded; their ``conv_cfg`` stays.
        host_shapes: whether every folded kernel has the shape that its host asks for, without ``mmkerv.FoldedConv``.

    Returns:
        A new config.

    Raises:
        ValueError: if a network has no folded form.

    Example:
        >>> cfg = Config(dict(model=dict(backbone=dict(type='ResNet', conv_cfg=dict(type='CoCConv')))))
        >>> deploy_config(cfg).model.backbone
        {'type': 'ResNet', 'conv_cfg': None}
    """
    result = by_name(copy.deepcopy(cfg))
    result.model = _plain(result.model, kept, library_of(cfg), host_shapes)
    # They are of the network before folding.
    for key, value in (('resume', False), ('load_from', None)):
        if key in result:
            result[key] = value
    if mentions_mmkerv(result.model):
        return result
    imports = result.get('custom_imports')
    if imports:
        imports.imports = [name for name in _listed(imports.get('imports')) if name.partition('.')[0] != 'mmkerv']
        if not imports.imports:
            result.pop('custom_imports')
    if result.get('optim_wrapper'):
        _without_operator_rules(result.optim_wrapper)
        if local_name(result.optim_wrapper.get('type'), ('mmkerv',)) == 'CpuAmpOptimWrapper':
            # It takes the same arguments.
            result.optim_wrapper.type = 'OptimWrapper'
    if result.get('custom_hooks'):
        result.custom_hooks = [h for h in result.custom_hooks if local_name(h.get('type'), ('mmkerv',)) is None]
    return result


def _without_operator_rules(optim_wrapper: dict) -> None:
    """Replace mmkerv's constructor of the optimizer by the one inside it, and ConvMuon by the optimizer of the rest."""
    if local_name(optim_wrapper.get('constructor'), ('mmkerv',)) is None:
        return
    del optim_wrapper['constructor']
    rules = optim_wrapper.get('paramwise_cfg') or {}
    inside = rules.pop('constructor', None)
    optimizer = optim_wrapper.get('optimizer')
    if isinstance(optimizer, dict) and local_name(optimizer.get('type'), ('mmkerv',)) == 'ConvMuon' and 'rest' in rules:
        optim_wrapper['optimizer'] = rules['rest']
    for key in ('operator_rules', 'layer_decay_rate', 'rest', 'rest_names', 'muon_names'):
        rules.pop(key, None)
    if inside is not None and local_name(inside, ('mmkerv',)) is None:
        optim_wrapper['constructor'] = inside
    if not rules:
        optim_wrapper.pop('paramwise_cfg', None)


def _plain(node: Any, kept: tuple[str, ...], scope: str | None, host_shapes: bool) -> Any:
    """Return a part of the model's config without the operators; a dict is changed in place."""
    if isinstance(node, dict):
        folded = takes_1x1 = False
        # mmengine's own access turns the imports of a pure-Python config into classes.
        for key, value in list(dict.items(node)):
            is_conv_cfg = key.endswith('conv_cfg') and isinstance(value, dict)
            operator = operator_name(value.get('type')) if is_conv_cfg else None
            if operator is None or operator in kept:
                dict.__setitem__(node, key, _plain(value, kept, scope, host_shapes))
            else:
                node[key] = None if host_shapes else operator_class(operator).deploy_cfg(value)
                folded = True
                takes_1x1 = takes_1x1 or operator_class(operator).takes_1x1
        family = local_name(node.get('type'), ('mmkerv',))
        if takes_1x1 and family and node.get('conv_cfg'):
            # What an operator takes by default need not be what its folded form takes.
            node['where'] = {'kernel_sizes': 'all', **(node.get('where') or {})}
        if family == 'CKCNN':
            raise ArgumentError(
                'mmkerv.CKCNN has no folded form: its kernels are as long as the sequence, and Fourier transforms '
                'apply them faster than a plain convolution would. Deploy it as it is; inside '
                'mmkerv.ops.frozen_kernels its kernels are computed once'
            )
        if family == 'Converted' and folded:
            # Each folded layer has a kernel of its own.
            node.pop('share', None)
        if family == 'Converted':
            # They fold whatever becomes of the operator.
            node.pop('adapters', None)
        if family == 'Converted' and node.get('conv_cfg') is None:
            return _with_injected(node)
        if family in FAMILIES and node.get('conv_cfg') is None:
            host = node.pop('host', None) or BUILT_ON.get(scope, scope)
            node['type'] = f'{find_library(family, host)}.{family}'
            for key in ('conv_cfg', 'where'):
                node.pop(key, None)
    elif isinstance(node, (list, tuple)):
        return type(node)(_plain(item, kept, scope, host_shapes) for item in node)
    return node


def _with_injected(converted: dict) -> dict:
    """Return the config of the network in a ``mmkerv.Converted``, with what stands beside it for the network."""
    network = converted.get('model') or converted['backbone']
    for key, value in list(dict.items(converted)):
        # As Converted does: what stands beside wins, but for the preprocessor.
        if key in INJECTED and not (key == 'data_preprocessor' and key in network):
            dict.__setitem__(network, key, value)
    return network


def mentions_mmkerv(node: Any) -> bool:
    """Return whether a part of a config names anything of mmkerv.

    Example:
        >>> mentions_mmkerv(dict(type='ResNet', conv_cfg=dict(type='CoCConv')))
        True
    """
    if isinstance(node, (str, type)):
        return local_name(node, ('mmkerv',)) is not None
    if isinstance(node, dict):
        return operator_name(node.get('type')) is not None or any(map(mentions_mmkerv, node.values()))
    return isinstance(node, (list, tuple)) and any(map(mentions_mmkerv, node))


def _listed(imports: Any) -> list[str]:
    if isinstance(imports, str):
        return [imports]
    if imports is None:
        raise ArgumentError("custom_imports needs a list 'imports'; write custom_imports=dict(imports=['mmkerv'])")
    return list(imports)
