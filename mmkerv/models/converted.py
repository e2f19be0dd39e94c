"""``mmkerv.Converted``: any network of an OpenMMLab library with its convolutions replaced by an operator."""

import difflib
from typing import Any

from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from mmkerv.errors import ArgumentTypeError
from mmkerv.models.adapters import apply_adapters
from mmkerv.models.placement import Where, initialised, replace_convolutions
from mmkerv.models.sharing import apply_share
from mmkerv.ops.core.arguments import reject_unknown
from mmkerv.ops.core.random_numbers import own_random_numbers
from mmkerv.registry import MODELS

# Keys that a model of the libraries adds to the config of its parts when it builds them; they belong to the network.
INJECTED = frozenset({
    'as_two_stage', 'data_preprocessor', 'init_cfg', 'num_classes', 'num_pred_layer', 'patch_size', 'pretrained',
    'share_pred_layer', 'test_cfg', 'train_cfg',
})  # fmt: skip


@MODELS.register_module()
class Converted:
    """Backbone, neck, head or whole model of the current default scope, converted to the operator ``conv_cfg``.

    For networks that have no argument ``conv_cfg`` of their own, such as mmpretrain's DenseNet.

    Args:
        backbone: config of the network, with a ``type`` of the default scope.
        conv_cfg: operator, such as ``dict(type='KervConv')``; ``None`` keeps the network plain.
        where: rule that selects the convolutions, by default all that the operator takes, see
            :class:`mmkerv.models.placement.Where`.
        model: another name of ``backbone``, for necks, heads and whole models.
        share: parameters that layers of one shape in a stage share, as ``dict(names='positions')``: the arguments of
            ``mmkerv.share_parameters`` without the model, or a list of such.
        adapters: orthogonal adapters on trained kernels, as ``dict(kind='oft', block_size=8)``: the arguments of
            ``mmkerv.add_orthogonal_adapters`` without the model, or a list of such.
        **injected: what the model around it adds to the config of this part: ``train_cfg`` and ``test_cfg`` of a
            detector's heads, ``num_classes`` of its RPN, ``pretrained`` of a segmentor's backbone. They go into the
            config of the network.

    Raises:
        TypeError: if ``backbone`` is not the config of a network, or for any other key; those of a base config are
            inherited unless the config has ``_delete_=True``.
        ValueError: if ``where`` selects nothing, ``share`` finds nothing to share, or ``adapters`` nothing to adapt.

    Returns the network that ``backbone`` builds, so the keys of its state dict are upstream's; those of layers with
    adapters are in the documentation of ``mmkerv.add_orthogonal_adapters``.

    Example:
        >>> densenet, first = dict(type='DenseNet', arch='121'), dict(stages=())
        >>> net = Converted(densenet, conv_cfg=dict(type='KervConv'), where=first)  # doctest: +SKIP
    """

    def __new__(
        cls,
        backbone: dict | None = None,
        conv_cfg: dict | None = None,
        where: Where | dict | None = None,
        *,
        model: dict | None = None,
        share: dict | list[dict] | None = None,
        adapters: dict | list[dict] | None = None,
        **injected: Any,
    ) -> nn.Module:
        """Build the network, convert it, share parameters and add adapters."""
        network = backbone if model is None else model
        if unknown := [key for key in injected if key not in INJECTED]:
            _refuse(unknown, network)
        if backbone is not None and model is not None:
            raise ArgumentTypeError('mmkerv.Converted takes backbone or model, which mean the same, got both')
        if not isinstance(network, dict) or 'type' not in network:
            raise ArgumentTypeError(
                "backbone must be a dict with a 'type', such as dict(type='DenseNet', arch='121'), got "
                f'{network!r}; model=dict(...) is another name of it, for heads and whole models'
            )
        # A runner adds the config's preprocessor only to a model that has none.
        if 'data_preprocessor' in network:
            injected.pop('data_preprocessor', None)
        # The config of the caller stays as it is.
        built = apply_conv_cfg(ROOT_MODELS.build({**network, **injected}), conv_cfg, where)
        if share is not None:
            built = apply_share(built, share)
        return built if adapters is None else apply_adapters(built, adapters)


def _refuse(unknown: list[str], network: Any) -> None:
    """Raise for keys that are neither arguments of ``Converted`` nor added by the model around it."""
    arguments = ('backbone', 'model', 'conv_cfg', 'where', 'share', 'adapters')
    if difflib.get_close_matches(unknown[0], arguments, n=1, cutoff=0.7):
        reject_unknown('mmkerv.Converted', unknown, arguments)
    kind = network.get('type') if isinstance(network, dict) else None
    raise ArgumentTypeError(
        f'mmkerv.Converted has no argument {", ".join(map(repr, unknown))}: if they are inherited from a base config, '
        f'write _delete_=True beside type; if they belong to {kind or "the network"}, write them into its own dict: '
        "dict(_delete_=True, type='mmkerv.Converted', backbone=dict(type=..., ...), conv_cfg=dict(type=...))"
    )


def apply_conv_cfg(model: nn.Module, conv_cfg: dict | None, where: Where | dict | None) -> nn.Module:
    """Convert ``model``, which is being built, unless ``conv_cfg`` is ``None``; ``where`` is checked in either case.

    Raises:
        ValueError: if ``where`` selects nothing.
        TypeError: for an unknown key of ``where``.

    Example:
        >>> apply_conv_cfg(nn.Sequential(nn.Conv2d(3, 8, 3)), dict(type='CoCConv'), None)[0].kernel_size
        (3, 3)
    """
    rule = Where.of(where)
    if conv_cfg is None:
        return model
    # What is initialised after this has the weights that it has in the plain network of the same seed.
    with own_random_numbers():
        # What is still to be initialised, or loaded after that, is not decomposed.
        return replace_convolutions(model, conv_cfg, rule, initialised(model))
