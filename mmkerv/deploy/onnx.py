"""Export a network to ONNX, and check the file by running it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmkerv.deploy.model_outputs import RawOutputs, largest_difference
from mmkerv.engine.checkpoint.atomic_write import atomic_path
from mmkerv.errors import ArgumentError, ExportCheckError
from mmkerv.ops.core.arguments import one_of
from mmkerv.ops.core.dynamic import EXPORT_FORMS, exported_as

EXPORTERS = ('auto', 'dynamo', 'legacy')
# First torch whose dynamo exporter handles dynamic shapes well.
DYNAMO_SINCE = (2, 6)


@torch.no_grad()
def export_onnx(
    model: nn.Module,
    out: str | Path,
    shape: tuple[int, int, int, int],
    *,
    dynamic: bool = True,
    exporter: str = 'auto',
    export_form: str | None = None,
    tolerance: float = 1e-4,
) -> float:
    """Export a network's raw outputs to ONNX, run the file, and compare; nothing is written if the outputs differ.

    Fold the operators first where they fold (:func:`mmkerv.ops.switch_to_deploy`); the others are exported as they are.
    With ``dynamic``, batch and image size are free, and the file is also run with two images of another size.

    Args:
        model: network of images (N, C, H, W), from OpenMMLab or not, in evaluation mode.
        out: ``.onnx`` file to write.
        shape: (N, C, H, W) of the example input.
        dynamic: whether N, H and W are free.
        exporter: ``'dynamo'`` (torch >= 2.6), ``'legacy'`` (tracing), or ``'auto'``: dynamo where torch has it.
        export_form: form of operators whose kernel depends on the image: ``'unfold'``, a product of the kernels with
            the unfolded patches; ``'mixture'``, a weighted sum of convolutions with fixed kernels; ``None``, the option
            ``export_form`` of each layer.
        tolerance: largest difference that passes, relative to the largest magnitude of each output.

    Returns:
        The largest difference.

    Raises:
        ExportCheckError: if the file does not compute the same as the network.
        ValueError: for an unknown exporter or form, a network in training mode or not in float32, or a layer that the
            form does not exist for.
        ImportError: without onnx or onnxruntime.

    Example:
        >>> export_onnx(model, 'retinanet.onnx', (1, 3, 256, 256))  # doctest: +SKIP
        3.1e-07
    """
    import onnx  # noqa: F401 both exporters need it
    import onnxruntime

    if exporter not in EXPORTERS:
        raise ValueError(f'exporter must be one of {", ".join(map(repr, EXPORTERS))}, got {exporter!r}')
    if export_form is not None:
        one_of(export_form, 'export_form', EXPORT_FORMS)
    _require_deployable(model)
    if exporter == 'auto':
        exporter = 'dynamo' if _version() >= DYNAMO_SINCE else 'legacy'
    network = RawOutputs(model)
    example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    # Of a batch of one, torch's dynamo exporter writes the number of images into the file.
    recorded = torch.cat([example, example]) if dynamic and shape[0] == 1 else example
    names = [f'output{i}' for i in range(len(network(example)))]
    with atomic_path(out) as file, exported_as(model, export_form):
        torch.onnx.export(
            network, (recorded,), str(file), input_names=['input'], output_names=names, **_settings(exporter, dynamic)
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


def _require_deployable(model: nn.Module) -> None:
    """Refuse a network whose outputs would differ from those of the file, or that takes no float32 images."""
    training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
    if training:
        raise ArgumentError(
            f'export_onnx needs a network in evaluation mode, and {len(training)} modules are in training mode, such '
            f'as {training[0]}; call model.eval() first'
        )
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if kinds:
        raise ArgumentError(
            f'export_onnx compares a float32 network with the file, and this one has parameters in '
            f'{", ".join(sorted(map(str, kinds)))}; call model.float() first, and convert the file to half precision '
            'afterwards if you need that'
        )


def _settings(exporter: str, dynamic: bool) -> dict[str, Any]:
    axes = {0: 'batch', 2: 'height', 3: 'width'}
    if exporter == 'legacy':
        # torch < 2.5 has no other exporter, and no such argument.
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
