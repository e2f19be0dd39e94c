"""``DeferredRemovalHook``: no checkpoint is removed before the one that takes its place is on the disk."""

from pathlib import Path
from typing import Any

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from mmkerv.registry import HOOKS
from mmkerv.utils import log


@HOOKS.register_module()
class DeferredRemovalHook(Hook):
    """Put off what ``CheckpointHook`` removes until it has written.

    mmengine removes the oldest checkpoint of ``max_keep_ckpts``, and the best one, and then writes the next: a run that
    is killed in between, or whose disk is full, can be left with none. The price is room for one more.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.DeferredRemovalHook')]
    """

    # After CheckpointHook.
    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        """Stand between the hooks and their file backend."""
        for hook in _writers(runner):
            if not isinstance(hook.file_backend, RemoveLater):
                hook.file_backend = RemoveLater(hook.file_backend)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Remove what was put off."""
        self._remove(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Remove what was put off."""
        self._remove(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Remove what was put off."""
        self._remove(runner)

    def _remove(self, runner: Runner) -> None:
        for hook in _writers(runner):
            if isinstance(hook.file_backend, RemoveLater):
                best = getattr(hook, 'best_ckpt_path_dict', {}).values()
                keep = {hook.last_ckpt, getattr(hook, 'best_ckpt_path', None), *best}
                hook.file_backend.remove_now(keep, hook.out_dir)


class RemoveLater:
    """A file backend whose removals wait for :meth:`remove_now`.

    Args:
        backend: what does everything else.

    Example:
        >>> from mmengine.fileio import LocalBackend
        >>> RemoveLater(LocalBackend()).remove('model.pth')
    """

    def __init__(self, backend: Any):
        self._backend = backend
        self._waiting: list[tuple[str, str]] = []

    def remove(self, filepath: str) -> None:
        """Put off removing a file.

        Example:
            >>> RemoveLater(None).remove('model.pth')
        """
        self._waiting.append(('remove', filepath))

    def rmtree(self, dir_path: str) -> None:
        """Put off removing a folder.

        Example:
            >>> RemoveLater(None).rmtree('model')
        """
        self._waiting.append(('rmtree', dir_path))

    def remove_now(self, keep: set[str | None], folder: str) -> None:
        """Remove what was put off.

        Args:
            keep: paths that were written again in the meantime.
            folder: of this run. What lies elsewhere, the best checkpoint of the run that this one goes on from, stays.

        Example:
            >>> later = RemoveLater(None); later.remove('model.pth')
            >>> later.remove_now(keep={'model.pth'}, folder='.')
        """
        waiting, self._waiting = self._waiting, []
        for method, path in waiting:
            if path in keep:
                continue
            if '://' in path or Path(folder).resolve() in Path(path).resolve().parents:
                getattr(self._backend, method)(path)
            else:
                log(f'mmkerv: {path} stays: it is of another run')

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def _writers(runner: Runner) -> list[CheckpointHook]:
    return [hook for hook in runner.hooks if isinstance(hook, CheckpointHook) and hasattr(hook, 'file_backend')]
