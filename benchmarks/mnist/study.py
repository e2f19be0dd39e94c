"""The runs of the study as data, and the process pool that does the missing ones."""

import json
import multiprocessing
import os
import re
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mnist.attack import EPS, attacked_accuracy
from mnist.data import load
from mnist.training import Setting, train

# Best accuracy (%) in section 4 or Table 1 of the paper, if given. The values of Figure 2 are not in its text.
RUNS = {
    'lenet5': 99.17,
    'lenet5_kerv': None,
    'lenet5_kerv_gaussian': None,
    'lenet5_kerv_sigmoid': None,
    'lenet5_kerv_learnable': 99.20,
    'lenet5_kerv_conv': None,
    'lenet5_conv_kerv': None,
    'lenet5_linear': 92.22,
    'lenet5_kerv_linear': 99.11,
    'lenet5_kerv_gaussian_linear': 99.11,
    'lenet5_kerv_l2': 99.19,
    'lenet5_kerv_euclidean': None,
    'lenet5_kerv_d2_c05': None,
    'lenet5_kerv_d2': None,
    'lenet5_kerv_c05': None,
    'lenet5_kerv_l1': 99.05,
    'lenet5_kerv_manhattan': None,
}
# Networks that are attacked, with the published accuracy of those in Table 1; networks that are drawn, as in Figure 1.
ATTACKED = {'lenet5': 71.92, 'lenet5_kerv_l1': 74.08, 'lenet5_kerv_l2': 76.36, 'lenet5_kerv_euclidean': None}
ATTACKED |= {'lenet5_kerv_manhattan': None, 'lenet5_kerv_gaussian': None, 'lenet5_kerv': None}
DRAWN = {'lenet5': 'convolution', 'lenet5_kerv_d2_c05': 'polynomial\n(2, 0.5)', 'lenet5_kerv': 'polynomial\n(3, 1)'}
LITERAL = Setting()
# Settings that the search found: a norm for all, and filters initialised as patches for kernels of a distance.
FOUND = Setting('01', 'BN')
FOUND_FOR_DISTANCES = Setting('01', 'BN', 'patches', 'auto')
# Setting in which the L1 and L2 norm learned best in a search of their own, of which the first one did not know.
BEST_FOR_DISTANCES = Setting('01', 'BN', 'patches', places='first')
DOT = ('lenet5', 'lenet5_kerv', 'lenet5_kerv_sigmoid')
LINEAR = ('lenet5_linear', 'lenet5_kerv_linear', 'lenet5_kerv_gaussian_linear')
PLACES = ('lenet5_kerv_learnable', 'lenet5_kerv_conv', 'lenet5_conv_kerv')
OTHERS = ('lenet5_kerv_d2_c05', 'lenet5_kerv_d2', 'lenet5_kerv_c05', 'lenet5_kerv_euclidean')
L1_NORMS = ('lenet5_kerv_l1', 'lenet5_kerv_manhattan')
# Groups of runs in their order, with the name of their setting, see :func:`setting_of`. The found ones are for the
# kernels of a distance, which need them, and for the networks that they are compared with.
PARTS = (
    ('literal', (*DOT, 'lenet5_kerv_gaussian', *LINEAR, *PLACES, 'lenet5_kerv_l2')),
    ('found', ('lenet5_kerv_l2', 'lenet5', 'lenet5_kerv_gaussian')),
    ('distances', ('lenet5_kerv_l2', 'lenet5', 'lenet5_kerv_l1')),
    ('literal', OTHERS),
    ('literal', L1_NORMS),
    ('found', ('lenet5_kerv_gaussian_linear', 'lenet5_kerv_euclidean', 'lenet5_kerv_l1', 'lenet5_kerv')),
)
# A run with batch norm takes twice as long, one of an L1 norm six times: these have fewer seeds, and the latter have a
# longer interval between evaluations.
FOUND_SEEDS, L1_SEEDS, L1_EVERY = 2, 1, 400
DISTANCES = ('gaussian', 'l2', 'euclidean', 'l1', 'manhattan')


class Job(NamedTuple):
    """Training run; ``epochs`` is by default the config's, ``every`` the iterations between evaluations."""

    config: str
    setting: Setting
    seed: int
    epochs: int | None = None
    every: int = 100
    limit: int | None = None

    def path(self, folder: Path) -> Path:
        """Return the file of the record."""
        setting = re.sub(r'[^\w.]+', '-', str(self.setting).replace('=-', '=minus'))
        return folder / f'{self.config}__{setting}__seed{self.seed}.json'


def distance_kernel(config: str) -> str | None:
    """Return the kernel of a distance in the name of a config, or None."""
    return next((kernel for kernel in DISTANCES if f'_{kernel}' in config), None)


def search_jobs(limit: int | None = None) -> Iterator[Job]:
    """Yield the runs of the search, one seed, three epochs: scale and norm for all, init and gamma for distances."""
    for kernel in (
        '',
        '_kerv',
        '_kerv_gaussian',
        '_kerv_euclidean',
        '_kerv_l2',
        '_kerv_sigmoid',
        '_kerv_manhattan',
        '_kerv_l1',
    ):
        radial = distance_kernel(kernel)
        if not radial:
            inits = ('torch',)
        elif radial in ('l1', 'manhattan'):
            # Runs of an L1 norm are slow, so they have the init that was better for l2.
            inits = ('patches',)
        else:
            inits = ('torch', 'patches')
        for scale in ('01',) if radial else ('01', 'std'):
            for norm in (None, 'BN'):
                for init in inits:
                    for gamma in (1.0, 'auto') if radial == 'gaussian' else (None,):
                        yield Job(f'lenet5{kernel}', Setting(scale, norm, init, gamma), 0, 3, 1200, limit)


def distance_jobs(limit: int | None = None) -> Iterator[Job]:
    """Yield the runs of the search for a setting in which the distances learn, one seed, three epochs.

    From the setting found and from the same without a norm, one option is changed at a time: sign and scale of the
    response (behind a norm the sign only), placement, activation and learning rate; then sign and activation together.
    The L1 norm, six times as slow, has the options of the L2 norm that matter most.
    """
    for norm in ('BN', None):
        base = Setting('01', norm, 'patches')
        changes = [{'factor': -1.0}, {'places': 'first'}, {'places': 'second'}, {'activation': False}]
        changes += [{'rate': rate} for rate in (0.3, 3.0, 10.0)] + [{'scale': 'std'}]
        changes += [{'factor': -1.0, 'activation': False}]
        if norm is None:
            changes += [{'factor': factor} for factor in (0.2, -0.2)] + [{'factor': -0.2, 'activation': False}]
            # Without patches, the paper's words but for one option.
            changes += [{'init': 'torch', **change} for change in ({'factor': -1.0}, {'places': 'first'})]
            changes += [{'init': 'torch', **change} for change in ({'activation': False}, {'places': 'second'})]
        for change in changes:
            yield Job('lenet5_kerv_l2', base._replace(**change), 0, 3, 1200, limit)
        for change in ({'factor': -1.0}, {'places': 'first'}, {'activation': False}):
            yield Job('lenet5_kerv_l1', base._replace(**change), 0, 3, 1200, limit)


def run_jobs(seeds: int, epochs: int | None = None, limit: int | None = None) -> list[Job]:
    """Return every run of the study, the most important first."""
    jobs = []
    for name, part in PARTS:
        for config in part:
            setting = setting_of(name, config)
            most = seeds if name == 'literal' else FOUND_SEEDS
            every = 100
            if config in L1_NORMS and setting.places != 'first':
                most, every = L1_SEEDS, L1_EVERY
            jobs += [Job(config, setting, seed, epochs, every, limit) for seed in range(min(seeds, most))]
    return list(dict.fromkeys(jobs))


def setting_of(name: str, config: str) -> Setting | None:
    """Return a setting of a config by its name, or ``None`` if that setting is not for this config.

    Args:
        name: ``'literal'``, the paper's words alone; ``'found'`` by the search; ``'distances'``, found by the search
            for these, with the plain network to compare with.
        config: name of a config.
    """
    kernel = distance_kernel(config)
    if name == 'literal':
        return LITERAL
    if name == 'found':
        setting = FOUND_FOR_DISTANCES if kernel else FOUND
        return setting if kernel == 'gaussian' else setting._replace(gamma=None)
    return FOUND if config == 'lenet5' else BEST_FOR_DISTANCES if kernel in ('l1', 'l2') else None


def records(folder: Path, archive: Path | None = None) -> dict[str, dict[str, Any]]:
    """Read the records in ``folder`` and those of its phase in ``archive``, by name."""
    old = json.loads(archive.read_text()).get(folder.name, {}) if archive and archive.exists() else {}
    return old | {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob('*.json'))}


def complete(
    jobs: Iterable[Job], folder: Path, archive: Path | None, data: Path, workers: int, device: str, tell=print
) -> None:
    """Do the jobs without a record, in ``workers`` processes of one thread each.

    Each record is written when its run has finished, so an interrupted study continues with the remaining runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = list(jobs)
    recorded = records(folder, archive)
    missing = [job for job in jobs if job.path(folder).stem not in recorded]
    tell(f'{folder}: {len(jobs) - len(missing)} of {len(jobs)} runs have records, {len(missing)} are missing')
    failures = []
    with ProcessPoolExecutor(workers, multiprocessing.get_context('spawn'), _one_thread) as pool:
        futures = {pool.submit(_run, job, folder, data, device): job for job in missing}
        for count, future in enumerate(as_completed(futures), 1):
            try:
                tell(f'[{count}/{len(missing)}] {future.result()}')
            # The other runs continue; the study fails at its end.
            except Exception as error:
                failures.append(f'{futures[future].config}: {error}')
                tell(f'[{count}/{len(missing)}] failed: {"".join(traceback.format_exception(error))}')
    if failures:
        raise RuntimeError(f'{len(failures)} runs failed: ' + '; '.join(failures))


def attach(record: dict[str, Any], model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Add the data for Table 1 and Figure 1 of a trained network to its record."""
    if record['config'] in ATTACKED and not record['diverged'] and not record['hopeless'] and record['epochs'] > 3:
        scale = record['setting']['scale']
        record['fgsm'] = [attacked_accuracy(model, images, labels, eps, scale) for eps in EPS]
    if record['config'] in DRAWN:
        record['filters'] = [[round(v, 5) for v in row] for row in model.backbone.layer1[0].weight.flatten(1).tolist()]


def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def _data(folder: Path, scale: str, limit: int | None, device: str) -> dict:
    return {
        split: (images.to(device), labels.to(device)) for split, (images, labels) in load(folder, scale, limit).items()
    }


def _run(job: Job, folder: Path, data: Path, device: str) -> str:
    record, model = train(
        job.config,
        job.setting,
        job.seed,
        _data(data, job.setting.scale, job.limit, device),
        epochs=job.epochs,
        every=job.every,
        tell=lambda line: None,
    )
    attach(record, model.eval(), *_data(data, job.setting.scale, job.limit, device)['test'])
    path = job.path(folder)
    partial = path.with_suffix(f'.{os.getpid()}.part')
    partial.write_text(json.dumps(record))
    partial.replace(path)
    reached = record['to_target']
    best = 'diverged' if record['best'] is None else f'best {record["best"]:.2f}'
    return f'{job.config} [{job.setting}] seed {job.seed}: {best}, 98 % ' + (
        f'at iteration {reached["iteration"]}' if reached else 'not reached'
    )
