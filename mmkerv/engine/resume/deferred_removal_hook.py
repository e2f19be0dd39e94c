"""``DeferredRemovalHook``: no checkpoint is removed before its replacement is on the disk."""

from pathlib import Path
from typing import Any

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from mmkerv.registry import HOOKS
from mmkerv.utils import log


@HOOKS.register_module()
class DeferredRemovalHook(Hook):
    """Hook that defers the removal of old checkpoints until the new one is written.

    mmengine removes the oldest checkpoint of ``max_keep_ckpts``, and the best one, before it writes the next: a run
    that is killed in between, or whose disk is full, can end up with none. The cost is disk space for one more.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.DeferredRemovalHook')]
    """

    # After CheckpointHook.
    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        """Wrap the file backend of every ``CheckpointHook``, and find the best checkpoint of a moved run."""
        for hook in _checkpoint_hooks(runner):
            _find_best(hook)
            if not isinstance(hook.file_backend, DeferredRemovalBackend):
                hook.file_backend = DeferredRemovalBackend(hook.file_backend)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Remove the deferred files."""
        self._remove(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Remove the deferred files."""
        self._remove(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Remove the deferred files."""
        self._remove(runner)

    def _remove(self, runner: Runner) -> None:
        for hook in _checkpoint_hooks(runner):
            if isinstance(hook.file_backend, DeferredRemovalBackend):
                best = getattr(hook, 'best_ckpt_path_dict', {}).values()
                keep = {hook.last_ckpt, getattr(hook, 'best_ckpt_path', None), *best}
                hook.file_backend.remove_deferred(keep, hook.out_dir)


class DeferredRemovalBackend:
    """File backend that defers removals until :meth:`remove_deferred` is called.

    Args:
        backend: file backend that does everything else.

    Example:
        >>> from mmengine.fileio import LocalBackend
        >>> DeferredRemovalBackend(LocalBackend()).remove('model.pth')
    """

    def __init__(self, backend: Any):
        self._backend = backend
        self._deferred: list[tuple[str, str]] = []

    def remove(self, filepath: str) -> None:
        """Defer the removal of a file.

        Example:
            >>> DeferredRemovalBackend(None).remove('model.pth')
        """
        self._deferred.append(('remove', filepath))

    def rmtree(self, dir_path: str) -> None:
        """Defer the removal of a folder.

        Example:
            >>> DeferredRemovalBackend(None).rmtree('model')
        """
        self._deferred.append(('rmtree', dir_path))

    def remove_deferred(self, keep: set[str | None], folder: str) -> None:
        """Remove the deferred files and folders.

        Args:
            keep: paths that have been written again since.
            folder: folder of this run. Files elsewhere, such as the best checkpoint of the run that this one resumes,
                are kept.

        Example:
            >>> backend = DeferredRemovalBackend(None); backend.remove('model.pth')
            >>> backend.remove_deferred(keep={'model.pth'}, folder='.')
        """
        deferred, self._deferred = self._deferred, []
        for method, path in deferred:
            if path in keep:
                continue
            if '://' in path or Path(folder).resolve() in Path(path).resolve().parents:
                getattr(self._backend, method)(path)
            else:
                log(f'mmkerv: {path} is kept: it belongs to another run')

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def _find_best(hook: CheckpointHook) -> None:
    """Replace paths of best checkpoints by those of the same name in the run's folder, where there are such.

    A resumed run knows them by the folder that it was in; its own would stay beside the next best one.
    """
    if isinstance(getattr(hook, 'best_ckpt_path', None), str):
        hook.best_ckpt_path = _in_folder(hook.best_ckpt_path, hook.out_dir)
    best = getattr(hook, 'best_ckpt_path_dict', {})
    best.update({key: _in_folder(path, hook.out_dir) for key, path in best.items() if isinstance(path, str)})


def _in_folder(path: str, folder: str) -> str:
    copy = Path(folder, Path(path).name)
    return str(copy) if '://' not in path and copy.exists() else path


def _checkpoint_hooks(runner: Runner) -> list[CheckpointHook]:
    return [hook for hook in runner.hooks if isinstance(hook, CheckpointHook) and hasattr(hook, 'file_backend')]
