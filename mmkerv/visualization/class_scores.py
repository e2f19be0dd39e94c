"""Category scores of models of any task, to be explained by class activation maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmkerv.deploy.trained_model import class_name, dataset_meta
from mmkerv.errors import ConfigError
from mmkerv.visualization.feature_maps import forward
from mmkerv.visualization.pictures import valid_size

# Largest number of category names in a message.
NAMES = 30


class ClassScores(nn.Module):
    r"""Wrapper that makes a model of any of the three libraries a classifier: inputs (N, C, H, W) to scores (N, K).

    The score :math:`s_k` of category k, before any softmax or sigmoid, is

    - classification: its logit;
    - detection: :math:`\sum_{p \in P_k} z_{k,p}`, the sum of its ``topk`` highest logits over all anchors or points of
      all levels, or over all regions of a two-stage detector;
    - segmentation: :math:`\sum_{p: k = \arg\max_j z_{j,p}} z_{k,p}`, the sum of its logits over the pixels where it is
      predicted, 0 if there are none. A single output channel is category 1, predicted where its probability is above
      the ``threshold`` of the head, and category 0 has logit 0.

    Args:
        model: model in evaluation mode.
        samples: data samples of one image, as :func:`mmkerv.deploy.trained_model.load_image` returns them; only
            detectors need them.
        topk: number of logits that a detector's score sums, >= 1.

    Example:
        >>> ClassScores(model, samples)(inputs).shape  # doctest: +SKIP
        torch.Size([1, 20])
    """

    def __init__(self, model: nn.Module, samples: Sequence[Any] | None = None, topk: int = 10):
        super().__init__()
        self.model = model
        self.sample = samples[0] if samples else None
        self.topk = topk

    @property
    def segments(self) -> bool:
        """Return whether the model is a segmentor."""
        return hasattr(self.model, 'encode_decode')

    @property
    def detects(self) -> bool:
        """Return whether the model is a detector."""
        return hasattr(self.model, 'bbox_head') or hasattr(self.model, 'roi_head')

    def forward(self, inputs: Tensor) -> Tensor:
        """Return scores (N, K).

        Raises:
            ConfigError: if the form of the model's outputs is unknown.
        """
        if self.segments:
            logits = self._pixel_logits(inputs)
            return (logits * self._where_predicted(logits)).sum((2, 3))
        samples = self._samples(inputs)
        if getattr(self.model, 'roi_head', None) is not None:
            scores = self._region_scores(inputs, samples)
        elif self.detects:
            scores = _location_scores(self.model, forward(self.model, inputs, samples))
        else:
            scores = forward(self.model, inputs, samples)
            if isinstance(scores, Tensor) and scores.ndim == 2:
                return scores
            raise _unknown(self.model, 'its head returns no logits (N, K)')
        return scores.topk(min(self.topk, scores.shape[1]), dim=1).values.sum(1)

    @torch.no_grad()
    def likeliest(self, inputs: Tensor, names: Sequence[str] | None = None) -> int:
        """Return the category of the highest logit; for a segmentor, that of most pixels, with the background last."""
        if self.segments:
            counts = self._where_predicted(self._pixel_logits(inputs)).sum((0, 2, 3))
            background = names is not None and names[0].lower() == 'background'
            if counts.shape[0] > 1 and (background or len(counts) == 2) and counts[1:].sum() > 0:
                counts[0] = 0
            return int(counts.argmax())
        topk, self.topk = self.topk, 1
        try:
            return int(self(inputs)[0].argmax())
        finally:
            self.topk = topk

    @torch.no_grad()
    def predicted(self, inputs: Tensor) -> list[int]:
        """Return the categories that a segmentor predicts at some pixel."""
        counts = self._where_predicted(self._pixel_logits(inputs)).sum((0, 2, 3))
        return counts.nonzero().flatten().tolist()

    @torch.no_grad()
    def probabilities(self, inputs: Tensor) -> Tensor:
        """Return the probabilities (K,) of the categories in one image, as the network predicts them.

        - classification: the score of the head;
        - detection: the highest score of its instances, 0 if there are none;
        - segmentation: the mean of its probability over the pixels where it is predicted, 0 if there are none.
        """
        if self.segments:
            logits = self._pixel_logits(inputs)
            where = self._where_predicted(logits)
            return ((logits.softmax(1) * where).sum((0, 2, 3)) / where.sum((0, 2, 3)).clamp_min(1)).cpu()
        samples = None if self.sample is None else [self.sample.clone()]
        sample = self.model(inputs, samples, mode='predict')[0]
        if not self.detects:
            return sample.pred_score.cpu()
        found = sample.pred_instances
        highest = torch.zeros(self(inputs).shape[1])
        return highest.scatter_reduce(0, found.labels.cpu(), found.scores.float().cpu(), 'amax')

    def _samples(self, inputs: Tensor) -> list | None:
        return None if self.sample is None else [self.sample] * len(inputs)

    def _pixel_logits(self, inputs: Tensor) -> Tensor:
        logits = forward(self.model, inputs, self._samples(inputs))
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        height, width = valid_size(inputs, self.sample)
        return logits[..., :height, :width]

    def _where_predicted(self, logits: Tensor) -> Tensor:
        """Return 1 where a category is the prediction of the segmentor, else 0, in the shape of the logits."""
        head = getattr(self.model, 'decode_head', None)
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        found = logits.argmax(1, keepdim=True)
        if getattr(head, 'out_channels', None) == 1:
            found = (logits[:, 1:].sigmoid() > head.threshold).long()
        return torch.zeros_like(logits).scatter_(1, found, 1.0)

    def _region_scores(self, inputs: Tensor, samples: list) -> Tensor:
        model, outputs = self.model, []
        features = model.extract_feat(inputs)
        regions = model.rpn_head.predict(features, samples, rescale=False)
        # A cascade has a head for each stage; the last one decides.
        head = model.roi_head.bbox_head
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        handle = head.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
        try:
            model.roi_head.forward(features, regions, samples)
        finally:
            handle.remove()
        if not outputs or not isinstance(outputs[-1], Tensor) or outputs[-1].shape[1] < head.num_classes:
            raise _unknown(model, 'its second stage returns no logits (R, K + 1)')
        split = outputs[-1].split([len(region) for region in regions])
        count = min(len(part) for part in split)
        # The same number for every image, so that they can be stacked; the score sums the highest of them.
        best = [part.topk(min(self.topk, count), dim=0).values for part in split]
        return torch.stack(best)[:, :, : head.num_classes]


def _location_scores(model: nn.Module, outputs: Any) -> Tensor:
    """Return the logits (N, P, K) of a one-stage detector at all locations."""
    head = model.bbox_head
    unknown = _unknown(model, f'the outputs of its {type(head).__name__} do not begin with the class scores')
    scores = outputs[0] if isinstance(outputs, (list, tuple)) and outputs else None
    channels = head.cls_out_channels
    # Transformers return the scores of queries for each layer: (layers, N, Q, K).
    if isinstance(scores, Tensor) and scores.ndim == 4 and scores.shape[3] == channels:
        flat = scores[-1]
    elif isinstance(scores, (list, tuple)) and scores and all(isinstance(s, Tensor) and s.ndim == 4 for s in scores):
        anchors = getattr(head, 'num_base_priors', 1)
        anchors = anchors if isinstance(anchors, (list, tuple)) else [anchors] * len(scores)
        if [score.shape[1] for score in scores] != [count * channels for count in anchors]:
            raise unknown
        levels = [s.permute(0, 2, 3, 1).reshape(len(s), -1, channels) for s in scores]
        flat = torch.cat(levels, 1)
    else:
        raise unknown
    # A softmax has the background as its last category.
    return flat[:, :, : getattr(head, 'num_classes', channels)]


def _unknown(model: nn.Module, why: str) -> ConfigError:
    return ConfigError(
        f'the class scores of {type(model).__name__} cannot be found: {why}. Supported are classifiers with one linear '
        'head, detectors of mmdet with class scores by location, query or region, and segmentors of mmseg'
    )


def class_names(cfg: Config, checkpoint: str | Path | None = None, trust: bool = False) -> list[str] | None:
    """Return the names of the categories from the checkpoint or from the config's test set, or ``None``.

    Example:
        >>> class_names(cfg, 'epoch_12.pth')[:2]  # doctest: +SKIP
        ['person', 'bicycle']
    """
    return dataset_meta(cfg, checkpoint, trust).get('classes')


def category_index(category: str, names: Sequence[str] | None, count: int, predicted: Sequence[int] = ()) -> int:
    """Return the index of a category that a user gave by index or name.

    Args:
        category: index or name.
        names: names of all categories, if known.
        count: number of categories.
        predicted: categories that are accepted; by default all.

    Raises:
        ConfigError: if there is no such category.

    Example:
        >>> category_index('boat', ['car', 'boat'], 2), category_index('0', None, 2)
        (1, 0)
    """
    names = list(names or ())
    if category in names:
        index = names.index(category)
    elif category.lstrip('-').isdigit() and 0 <= int(category) < count:
        index = int(category)
    else:
        listed = [*names[:NAMES], '...'] if len(names) > NAMES else names
        known = f', or one of {", ".join(listed)}' if names else ''
        raise ConfigError(f'--target-category: no category {category!r}; use a number from 0 to {count - 1}{known}')
    if predicted and index not in predicted:
        choices = ', '.join(class_name(i, names) for i in predicted)
        raise ConfigError(
            f'--target-category: {class_name(index, names)!r} is predicted at no pixel, so nothing can be explained; '
            f'predicted are {choices}'
        )
    return index
