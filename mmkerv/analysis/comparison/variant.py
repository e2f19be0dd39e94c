"""Variants of a network, as the command line names them: ``'coc:super_init=kaiming,where.stages=(1,2)'``."""

import re
from collections.abc import Sequence

from mmkerv.engine.config.operator_spec import OVERRIDE, OperatorSpec, parse_operator
from mmkerv.errors import ConfigError

FLAG = '--operators'
# Settings that no variant can have alone, and what to use.
_ANOTHER_LENGTH = 'would train this network for another time than the others, which cannot be compared with it; use'
REFUSED = {
    'train_cfg.max_epochs': f'{_ANOTHER_LENGTH} --epochs N, for all of them',
    'train_cfg.max_iters': f'{_ANOTHER_LENGTH} --iters N, for all of them',
    'data_root': 'has no effect: the data sets have used it already, and all networks are compared on the same data; '
    'use --cfg-options data_root=DIR',
}


class Variant(OperatorSpec):
    """One network to compare: the config's own, or that with an operator; ``overrides`` are its alone.

    Example:
        >>> parse_variant('kerv:where.stages=()').where
        {'stages': ()}
    """

    __slots__ = ()

    @property
    def folder(self) -> str:
        """Name of the variant's folder.

        Example:
            >>> parse_variant('coc:super_init=kaiming,where.stages=(1,2)').folder
            'coc-super_init=kaiming-where.stages=-1-2'
        """
        return re.sub(r'[^\w.=+]+', '-', self.spec).strip('-')


def parse_variants(specs: Sequence[str]) -> list[Variant]:
    """Parse the variants of a command line.

    Raises:
        ConfigError: naming the text, the rule and what to do; also for two variants that are the same.

    Example:
        >>> [variant.operator for variant in parse_variants(['plain', 'coc'])]
        [None, 'CoCConv']
    """
    variants = [parse_variant(spec) for spec in specs]
    known: dict[str, Variant] = {}
    for variant in variants:
        # Some file systems do not tell capital letters.
        other = known.setdefault(variant.folder.lower(), variant)
        if other is not variant:
            raise ConfigError(
                f'{FLAG} {variant.spec!r} and {other.spec!r} would have the same folder, {variant.folder!r}; give '
                'each once'
            )
    return variants


def parse_variant(spec: str) -> Variant:
    """Parse ``OPERATOR[:KEY=VALUE[,KEY=VALUE...]]`` as :func:`mmkerv.engine.config.operator_spec.parse_operator` does.

    Raises:
        ConfigError: naming the text, the rule and what to do; also for a setting that all networks must share.

    Example:
        >>> parse_variant('coc:cfg.optim_wrapper.optimizer.type=AdamW').overrides
        {'optim_wrapper.optimizer.type': 'AdamW'}
    """
    variant = Variant(*parse_operator(spec, flag=FLAG))
    for key, advice in REFUSED.items():
        if key in variant.overrides:
            raise ConfigError(f'{FLAG} {spec!r}: {OVERRIDE}{key} {advice}')
    return variant
