"""Export to ONNX: a network as an exporter wants it, and a file that has been run and compared."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmkerv.deploy.fold import largest_difference, tensors_of
from mmkerv.engine.checkpoint.atomic_write import atomic_path

EXPORTERS = ('auto', 'dynamo', 'legacy')
# torch.onnx's second exporter takes dynamic shapes well from here on.
DYNAMO_SINCE = (2, 6)


class ExportCheckError(RuntimeError):
    """The exported file does not compute what the network computes.

    Example:
        >>> issubclass(ExportCheckError, RuntimeError)
        True
    """


class RawOutputs(nn.Module):
    """A network of tensors alone, for exporters and tracers: inputs (N, C, H, W), a flat tuple of outputs.

    A model of mmdetection, mmsegmentation or mmpretrain gives what it gives before post-processing; preprocessing,
    boxes and thresholds stay outside.

    Args:
        model: such a model, or any network.

    Example:
        >>> [tuple(t.shape) for t in RawOutputs(nn.Conv2d(3, 8, 3))(torch.randn(1, 3, 5, 5))]
        [(1, 8, 3, 3)]
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        # The legacy exporter puts what it is given, and so the model, back into the mode it finds there.
        self.train(model.training)

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return every tensor of floating-point numbers that the model gives for (N, C, H, W).

        Example:
            >>> len(RawOutputs(nn.Identity())(torch.ones(1, 3, 4, 4)))
            1
        """
        openmmlab = hasattr(self.model, 'data_preprocessor')
        return tuple(tensors_of(self.model(inputs, mode='tensor') if openmmlab else self.model(inputs)))


@torch.no_grad()
def export_onnx(
    model: nn.Module,
    out: str | Path,
    shape: tuple[int, int, int, int],
    *,
    dynamic: bool = True,
    exporter: str = 'auto',
    tolerance: float = 1e-4,
) -> float:
    """Write a network's raw outputs as ONNX, run the file, and compare; nothing is left if they differ.

    Operators that fold are best folded before (:func:`mmkerv.ops.switch_to_deploy`); the others are exported as they
    are. Batch and image size are free if ``dynamic``, and the file is then also run with two images of another size.

    Args:
        model: network in evaluation mode, of OpenMMLab or any other of images (N, C, H, W).
        out: ``.onnx`` file to write.
        shape: (N, C, H, W) of the example.
        dynamic: leave N, H and W free.
        exporter: ``'dynamo'`` (torch >= 2.6), ``'legacy'`` (tracing), or ``'auto'``: the first where there is one.
        tolerance: largest difference that passes, relative to the largest magnitude of each output.

    Returns:
        The largest difference found.

    Raises:
        ExportCheckError: if the file computes something else.
        ValueError: for an unknown exporter.
        ImportError: without onnx or onnxruntime.

    Example:
        >>> export_onnx(model, 'retinanet.onnx', (1, 3, 256, 256))  # doctest: +SKIP
        3.1e-07
    """
    import onnx  # noqa: F401 both exporters need it
    import onnxruntime

    if exporter not in EXPORTERS:
        raise ValueError(f'exporter must be one of {", ".join(map(repr, EXPORTERS))}, got {exporter!r}')
    if exporter == 'auto':
        exporter = 'dynamo' if _version() >= DYNAMO_SINCE else 'legacy'
    network = RawOutputs(model)
    example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    names = [f'output{i}' for i in range(len(network(example)))]
    with atomic_path(out) as file:
        torch.onnx.export(
            network, (example,), str(file), input_names=['input'], output_names=names, **_settings(exporter, dynamic)
        )
        session = onnxruntime.InferenceSession(file.read_bytes(), providers=['CPUExecutionProvider'])
        others = [example, torch.randn(2, shape[1], *(n + 32 for n in shape[2:]))] if dynamic else [example]
        error = max(_error(session, network, x) for x in others)
        if not error <= tolerance:
            raise ExportCheckError(
                f'{out}: the exported network differs by {error:.2e} of the largest output, more than {tolerance:.0e}; '
                "nothing was written. Try the other exporter ('dynamo' or 'legacy'), or fold the network first"
            )
    return error


def _settings(exporter: str, dynamic: bool) -> dict[str, Any]:
    axes = {0: 'batch', 2: 'height', 3: 'width'}
    if exporter == 'legacy':
        # Before 2.5 there is no other.
        choice = {'dynamo': False} if _version() >= (2, 5) else {}
        return {**choice, 'dynamic_axes': {'input': axes} if dynamic else None, 'opset_version': 17}
    settings: dict[str, Any] = {'dynamo': True, 'external_data': False, 'verbose': False}
    if dynamic:
        settings['dynamic_shapes'] = (dict.fromkeys(axes, torch.export.Dim.DYNAMIC),)
    return settings


def _error(session: Any, network: nn.Module, x: Tensor) -> float:
    results = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return largest_difference(list(network(x)), [torch.from_numpy(r) for r in results])


def _version() -> tuple[int, int]:
    major, minor = torch.__version__.split('.')[:2]
    return int(major), int(minor)
