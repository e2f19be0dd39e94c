"""What the paper says of Figure 7, held against our runs."""

import math
import statistics
from typing import Any, NamedTuple

from ablation.settings import BACKBONES

Runs = dict[str, list[dict[str, Any]]]


class Claim(NamedTuple):
    """A sentence of the paper: ``better`` ends above each of ``worse``, on these backbones."""

    sentence: str
    better: str
    worse: tuple[str, ...]
    backbones: tuple[str, ...] = tuple(BACKBONES)


# By their numbers in section 4.1.
CLAIMS = (
    Claim('(1) sa: similar results, 2 seems to be the best', '221', ('121', '321', '421')),
    Claim('(2) skp should be greater than 0', '221', ('201',)),
    Claim('(2) too large a skp undermines the performance', '221', ('261',)),
    Claim('(3) sl: not the larger the better', '221', ('222', '223')),
    Claim('(4) skip: always beneficial', '221', ('no_skip',)),
    Claim('(5) dilate: always beneficial', '221', ('no_dilate',)),
    Claim('(6) orth: always beneficial', 'orth', ('221',)),
    Claim('(7) stnd: good for standard models', 'stnd', ('221',), ('resnet18',)),
    Claim('(7) stnd: bad for light models', '221', ('stnd',), ('shufflenet_v2_1x',)),
    Claim('(8) c1x1: replacing is harmful', '221', ('c1x1',)),
    Claim('Table 1: CoC is better than none', '221', ('plain',)),
    Claim('Summary: CoC with orth is better than orth alone', 'orth', ('plain_orth',)),
    Claim('Summary: CoC with stnd is better than stnd alone', 'stnd', ('plain_stnd',)),
)


def claims(runs: dict[str, Runs]) -> str:
    """Return a table: sentence, and for each backbone whether it holds here, and our figures.

    Args:
        runs: by backbone and setting.
    """
    lines = ['| the paper | ' + ' | '.join(BACKBONES) + ' |', '|---' * (1 + len(BACKBONES)) + '|']
    for claim in CLAIMS:
        cells = [judged(claim, runs.get(name, {})) if name in claim.backbones else '' for name in BACKBONES]
        lines.append(f'| {claim.sentence} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def judged(claim: Claim, runs: Runs) -> str:
    """Say whether a claim holds, with the figures: 'no' if one comparison goes against it, 'yes' if all go for it."""
    if any(not runs.get(setting) for setting in (claim.better, *claim.worse)):
        return 'not run'
    signs = {compared(runs[claim.better], runs[setting]) for setting in claim.worse}
    verdict = 'no' if -1 in signs else 'yes' if signs == {1} else 'undecided'
    shown = ', '.join(f'{setting} {mean(runs[setting], "last"):.1f}' for setting in (claim.better, *claim.worse))
    return f'**{verdict}**: {shown}'


def compared(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> int:
    r"""Sign of the difference of two mean accuracies, 0 within two standard errors.

    :math:`s^2 = p_1 (1 - p_1) / n_1 + p_2 (1 - p_2) / n_2`, n being the validation images times the seeds.
    """
    variance = 0.0
    for group in (first, second):
        p = mean(group, 'last') / 100
        variance += p * (1 - p) / sum(record['data']['val'] for record in group)
    difference = mean(first, 'last') - mean(second, 'last')
    return 0 if abs(difference) <= 200 * math.sqrt(variance) else int(math.copysign(1, difference))


def mean(group: list[dict[str, Any]], key: str) -> float:
    """Mean over the seeds."""
    return statistics.fmean(record[key] for record in group)
