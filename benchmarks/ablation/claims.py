"""Claims of the paper about Figure 7, compared with our runs."""

import math
import statistics
from typing import Any, NamedTuple

from ablation.settings import BACKBONES

Runs = dict[str, list[dict[str, Any]]]


class Claim(NamedTuple):
    """Sentence of the paper: ``better`` has a higher final accuracy than each of ``worse``, on these backbones."""

    sentence: str
    better: str
    worse: tuple[str, ...]
    backbones: tuple[str, ...] = tuple(BACKBONES)


# In the order of section 4.1, with its numbers.
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
    """Return a table of the claims: for each backbone the verdict and our accuracies.

    Args:
        runs: records by backbone and setting.
    """
    lines = ['| the paper | ' + ' | '.join(BACKBONES) + ' |', '|---' * (1 + len(BACKBONES)) + '|']
    for claim in CLAIMS:
        cells = [judged(claim, runs.get(name, {})) if name in claim.backbones else '' for name in BACKBONES]
        lines.append(f'| {claim.sentence} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def judged(claim: Claim, runs: Runs) -> str:
    """Return the verdict with the accuracies: 'no' if one comparison contradicts the claim, 'yes' if all support it."""
    if any(not runs.get(setting) for setting in (claim.better, *claim.worse)):
        return 'not run'
    signs = {compared(runs[claim.better], runs[setting]) for setting in claim.worse}
    if -1 in signs:
        verdict = 'no'
    else:
        verdict = 'yes' if signs == {1} else 'undecided'
    shown = ', '.join(f'{setting} {mean(runs[setting], "last"):.1f}' for setting in (claim.better, *claim.worse))
    return f'**{verdict}**: {shown}'


def compared(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> int:
    r"""Return the sign of the difference of two mean accuracies, 0 within two standard errors.

    :math:`s^2 = p_1 (1 - p_1) / n_1 + p_2 (1 - p_2) / n_2`, where n counts the validation images of all
    seeds.
    """
    difference = mean(first, 'last') - mean(second, 'last')
    errors = 200 * math.sqrt(variance(first) + variance(second))
    return 0 if abs(difference) <= errors else int(math.copysign(1, difference))


def variance(group: list[dict[str, Any]]) -> float:
    """Return the variance p (1 - p) / n of an accuracy p over the n validation images of all seeds."""
    p = mean(group, 'last') / 100
    return p * (1 - p) / sum(record['data']['val'] for record in group)


def mean(group: list[dict[str, Any]], key: str) -> float:
    """Return the mean over the seeds."""
    return statistics.fmean(record[key] for record in group)
