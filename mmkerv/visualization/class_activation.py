"""Class activation maps of models of the three libraries, computed by the package grad-cam."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from torch import Tensor, nn

from mmkerv import install_advice
from mmkerv.deploy.trained_model import class_name, load_image
from mmkerv.distributions import importable
from mmkerv.errors import ArgumentError, ConfigError, InstallationError
from mmkerv.ops import frozen_kernels
from mmkerv.visualization.class_scores import ClassScores, category_index
from mmkerv.visualization.feature_maps import last_map, recording, select_maps, split_name
from mmkerv.visualization.pictures import input_picture, panels, valid_size

# Methods that need only maps and gradients of any layer: the names that users type, and grad-cam's classes.
METHODS = {
    'GradCAM': 'GradCAM',
    'GradCAM++': 'GradCAMPlusPlus',
    'XGradCAM': 'XGradCAM',
    'HiResCAM': 'HiResCAM',
    'LayerCAM': 'LayerCAM',
    'GradCAMElementWise': 'GradCAMElementWise',
    'EigenCAM': 'EigenCAM',
    'EigenGradCAM': 'EigenGradCAM',
    'ScoreCAM': 'ScoreCAM',
}
# Default number of logits that a detector's score sums, and of categories whose maps are fused.
BEST = 10


class Activation(NamedTuple):
    """A class activation map.

    Args:
        heat: (H, W), in [0, 1], for the image without padding.
        layers: names of the layers that it was computed from.
        category: index of the category.
        score: score of the category, see :class:`mmkerv.visualization.class_scores.ClassScores`.
        probability: see :meth:`mmkerv.visualization.class_scores.ClassScores.probabilities`; ``None`` if not computed.

    Example:
        >>> Activation(np.zeros((2, 2)), ['backbone'], 0, 1.5).score
        1.5
    """

    heat: np.ndarray
    layers: list[str]
    category: int
    score: float
    probability: float | None = None


def cam_method(name: str) -> type:
    """Return the class of grad-cam for a name, ignoring case.

    Raises:
        ArgumentError: for an unknown name.
        InstallationError: if grad-cam is not installed.

    Example:
        >>> cam_method('gradcam++').__name__  # doctest: +SKIP
        'GradCAMPlusPlus'
    """
    known = {spelling.lower(): cls for alias, cls in METHODS.items() for spelling in (alias, cls)}
    if name.lower() not in known:
        raise ArgumentError(f'--method must be one of {", ".join(METHODS)}, got {name!r}')
    if not importable('pytorch_grad_cam'):
        raise InstallationError(
            'grad-cam, which draws class activation maps, is not installed; '
            f'{install_advice.pip("install", "grad-cam")}'
        )
    import pytorch_grad_cam

    return getattr(pytorch_grad_cam, known[name.lower()])


def class_activation(
    model: nn.Module,
    inputs: Tensor,
    samples: Sequence[Any] | None,
    category: int,
    layers: Sequence[str],
    method: str = 'GradCAM',
    topk: int = BEST,
    eigen_smooth: bool = False,
    aug_smooth: bool = False,
) -> Activation:
    r"""Return the class activation map of a category.

    GradCAM is :math:`\mathrm{ReLU}(\sum_c \overline{\partial s_k / \partial A_c}\, A_c)` of the maps :math:`A_c` of a
    layer, scaled to [0, 1] and to the size of the image; the bar is the mean over the positions. Several maps are
    averaged.

    Args:
        model: model in evaluation mode.
        inputs: (1, C, H, W), as :func:`mmkerv.deploy.trained_model.load_image` returns them.
        samples: data samples of the inputs.
        category: index of the category whose score :math:`s_k` is explained.
        layers: as in :func:`mmkerv.visualization.feature_maps.feature_maps`.
        method: one of ``METHODS``.
        topk: as in :class:`mmkerv.visualization.class_scores.ClassScores`.
        eigen_smooth: take the first principal component of the weighted maps.
        aug_smooth: average over mirrored and dimmed inputs.

    Raises:
        ConfigError: if the model does not have a layer, the layer returns no maps, or the score does not depend on it.
        ArgumentError: for an unknown method.
        InstallationError: if grad-cam is not installed.

    Source: Selvaraju et al., Grad-CAM, ICCV 2017.

    Example:
        >>> class_activation(model, inputs, samples, 3, ['backbone:-1']).heat.shape  # doctest: +SKIP
        (800, 1216)
    """
    kind = cam_method(method)
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    scores = ClassScores(model, samples, topk)
    cam = kind(scores, [])
    cam.activations_and_grads.release()
    recorder = _Recorder(scores, layers, cam.uses_gradients)
    cam.activations_and_grads = recorder
    # grad-cam reads as many maps as it has layers, so it gets the model once for each map.
    with torch.no_grad():
        recorder(inputs)
    cam.target_layers = [scores] * len(recorder.maps)
    try:
        # ScoreCAM calls the network hundreds of times.
        with frozen_kernels(model):
            # The image requires a gradient, so that the maps of frozen layers get gradients too.
            heat = cam(
                inputs.detach().clone().requires_grad_(),
                [ClassifierOutputTarget(category)],
                eigen_smooth=eigen_smooth,
                aug_smooth=aug_smooth,
            )[0]
    finally:
        model.zero_grad(set_to_none=True)
    height, width = valid_size(inputs, scores.sample)
    return Activation(heat[:height, :width], recorder.used, category, float(recorder.scores[0, category]))


class _Recorder:
    """Replacement of grad-cam's recorder that handles layers with several maps and in-place operations after a map."""

    def __init__(self, scores: ClassScores, layers: Sequence[str], uses_gradients: bool):
        self.model = scores
        self.layers = layers
        self.uses_gradients = uses_gradients
        self.groups: dict[str, dict[str, Tensor]] = {}
        self.scores: Tensor | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        with recording(self.model.model, [split_name(name)[0] for name in self.layers]) as recorded:
            outputs = self.model(inputs)
        self.groups = {name: select_maps(recorded, [name], len(inputs)) for name in self.layers}
        for feature in self.maps.values():
            if feature.requires_grad:
                feature.retain_grad()
        self.scores = outputs.detach()
        return outputs

    @property
    def maps(self) -> dict[str, Tensor]:
        return {label: feature for group in self.groups.values() for label, feature in group.items()}

    @property
    def used(self) -> list[str]:
        """Names of the maps that the score depends on."""
        return [name for name, feature in self.maps.items() if not self.uses_gradients or feature.grad is not None]

    @property
    def activations(self) -> list[Tensor]:
        return [feature.detach() for feature in self.maps.values()]

    @property
    def gradients(self) -> list[Tensor]:
        if not self.uses_gradients:
            return []
        for name, group in self.groups.items():
            # Some maps of a neck may be for other parts of the network.
            if all(feature.grad is None for feature in group.values()):
                raise ConfigError(
                    f'--target-layers: the score of the category does not depend on {name!r}; name another layer or map'
                )
        return [torch.zeros_like(m) if m.grad is None else m.grad for m in self.maps.values()]

    def release(self) -> None:
        self.groups = {}


class Explained(NamedTuple):
    """Image with the class activation maps of a network.

    Args:
        picture: (H, W, 3), 8-bit RGB: the image that the network got.
        activations: class activation maps by category.

    Example:
        >>> Explained(np.zeros((2, 2, 3), np.uint8), {}).activations
        {}
    """

    picture: np.ndarray
    activations: dict[str, Activation]


def explain_image(
    model: nn.Module,
    cfg: Config,
    img: str | Path,
    names: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    method: str | None = None,
    fuse: bool = False,
    canvas: tuple[int, int] | None = None,
    absent: bool = False,
    **options: Any,
) -> Explained:
    """Return the class activation maps of an image file.

    Args:
        model: model as :func:`mmkerv.deploy.trained_model.load_trained` returns it.
        cfg: config of the model.
        img: image file.
        names: names of all categories.
        categories: indices or names of the categories to explain; by default the most likely one.
        layers: by default all maps of a detector's neck, else the last map of the backbone.
        method: by default ``'LayerCAM'`` for detectors, whose scores depend on few positions, so that means over all
            positions are of little use; else ``'GradCAM'``.
        fuse: return one map, the maximum over the categories at each pixel; the categories are by default the ``topk``
            (10) of the highest scores, of a segmentor those of them that it predicts somewhere.
        canvas: width and height that the image is resized and padded to, see
            :func:`mmkerv.deploy.trained_model.load_image`.
        absent: give a category that a segmentor predicts at no pixel a map of zeros, instead of an error.
        **options: ``topk``, ``eigen_smooth``, ``aug_smooth`` of :func:`class_activation`.

    Raises:
        FileNotFoundError, ConfigError: as in :func:`mmkerv.deploy.trained_model.load_image`; the second also for an
            unknown category.

    Example:
        >>> explain_image(model, cfg, 'sheep.jpg', names, ['sheep']).activations  # doctest: +SKIP
    """
    data = load_image(model, cfg, img, canvas)
    inputs, samples = data['inputs'], data['data_samples']
    number = options.pop('topk', BEST) if fuse else 1
    scores = ClassScores(model, samples, options.get('topk', BEST))
    with torch.no_grad():
        found = scores(inputs)[0]
    predicted = scores.predicted(inputs) if scores.segments else ()
    if categories:
        accepted = () if absent else predicted
        indices = [category_index(category, names, len(found), accepted) for category in categories]
    elif fuse:
        ranked = found.argsort(descending=True, stable=True).tolist()
        indices = [k for k in ranked if not predicted or k in predicted][:number]
    else:
        indices = [scores.likeliest(inputs, names)]
    method = method or ('LayerCAM' if scores.detects else 'GradCAM')
    if not layers:
        layers = ['neck'] if scores.detects and hasattr(model, 'neck') else [last_map(model, inputs)]
    probabilities = scores.probabilities(inputs)
    maps = {}
    for k in indices:
        activation = class_activation(model, inputs, samples, k, layers, method, **options)
        maps[class_name(k, names)] = activation._replace(probability=float(probabilities[k]))
    return Explained(input_picture(model, inputs, scores.sample), fused(maps) if fuse else maps)


def fused(maps: Mapping[str, Activation]) -> dict[str, Activation]:
    """Return the maximum of class activation maps at each pixel as one map, with the score of the first.

    Source: Figure 10 of the CoC paper, CVPR 2022, which fuses the maps of the ten best classes.

    Example:
        >>> maps = {name: Activation(np.eye(2) * k, ['neck'], k, 1.0 / k) for k, name in enumerate('ab', 1)}
        >>> {name: a.heat.tolist() for name, a in fused(maps).items()}
        {'maximum over the categories': [[2.0, 0.0], [0.0, 2.0]]}
    """
    first = next(iter(maps.values()))
    heat = np.max([activation.heat for activation in maps.values()], axis=0)
    layers = list(dict.fromkeys(layer for activation in maps.values() for layer in activation.layers))
    # Not their number, which may be another for another network in the same figure.
    return {'maximum over the categories': Activation(heat, layers, first.category, first.score)}


def draw_explained(networks: Sequence[tuple[str, Explained]]) -> Figure:
    """Draw the image and the maps over it: one row for one network, else a row for each category.

    All networks have their categories in the same order; a row is named as in the first.

    Source: Figure 10 of the CoC paper, CVPR 2022.

    Example:
        >>> figure = draw_explained([('plain', explained), ('coc', explained_too)])  # doctest: +SKIP
    """
    picture = networks[0][1].picture
    if len(networks) == 1:
        title, explained = networks[0]
        overlays = [(_titled(name, a), _overlay(picture, a)) for name, a in explained.activations.items()]
        return panels([[(title, picture), *overlays]])
    rows = []
    # By position: networks with class names of their own may call a category differently.
    for category, *maps in zip(networks[0][1].activations, *(e.activations.values() for _, e in networks)):
        overlays = [(_titled(t, a), _overlay(e.picture, a)) for (t, e), a in zip(networks, maps)]
        rows.append([(category, picture), *overlays])
    return panels(rows)


def _titled(title: str, activation: Activation) -> str:
    return title if activation.probability is None else f'{title} {100 * activation.probability:.1f} %'


def _overlay(picture: np.ndarray, activation: Activation) -> np.ndarray:
    from pytorch_grad_cam.utils.image import show_cam_on_image

    return show_cam_on_image(picture.astype(np.float32) / 255, activation.heat, use_rgb=True)
