"""``mmkerv.CornerCrop``: one of the five crops of ten-crop testing."""

from mmcv.transforms import BaseTransform

from mmkerv.errors import ArgumentError
from mmkerv.ops.core.arguments import integers, one_of
from mmkerv.registry import TRANSFORMS

# Number of halves of the free rows above, and of the free columns left of, the crop.
POSITIONS = {
    'top-left': (0, 0),
    'top-right': (0, 2),
    'bottom-left': (2, 0),
    'bottom-right': (2, 2),
    'center': (1, 1),
}


@TRANSFORMS.register_module()
class CornerCrop(BaseTransform):
    """Crop a corner or the centre of the image; changes the keys ``img`` and ``img_shape`` of the results.

    Ten-crop testing averages the scores of the five crops and their mirror images: five of these transforms, each
    followed by ``RandomFlip`` with probabilities 0 and 1, inside ``TestTimeAug``.

    Args:
        crop_size: height and width of the crop, one integer or two.
        position: ``'top-left'``, ``'top-right'``, ``'bottom-left'``, ``'bottom-right'`` or ``'center'``.

    Raises:
        ValueError: for an unknown position, or an image smaller than the crop.
        TypeError: if a size is not an integer.

    Source: ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012, section 4.1. Here the image need
        not be square.

    Example:
        >>> import numpy as np
        >>> results = {'img': np.arange(12).reshape(3, 4)}
        >>> CornerCrop(2, 'top-right')(results)['img'].tolist()
        [[2, 3], [6, 7]]
    """

    def __init__(self, crop_size: int | tuple[int, int], position: str):
        self.crop_size = integers(crop_size, 2, 'crop_size', 1)
        self.position = one_of(position, 'position', POSITIONS)

    def transform(self, results: dict) -> dict:
        """Replace the image of the results by the crop.

        Args:
            results: results of the pipeline, with the key ``img``, (H, W) or (H, W, C).

        Example:
            >>> import numpy as np
            >>> CornerCrop(2, 'center').transform({'img': np.zeros((4, 4, 3))})['img_shape']
            (2, 2)
        """
        image = results['img']
        free = [length - crop for length, crop in zip(image.shape, self.crop_size)]
        if min(free) < 0:
            raise ArgumentError(
                f'crop_size must fit the image, got {self.crop_size} for one of {image.shape[:2]}; '
                'resize it first (ResizeEdge)'
            )
        top, left = (space * share // 2 for space, share in zip(free, POSITIONS[self.position]))
        results['img'] = image[top : top + self.crop_size[0], left : left + self.crop_size[1]]
        results['img_shape'] = self.crop_size
        return results

    def __repr__(self) -> str:
        """Return the arguments.

        Example:
            >>> CornerCrop(224, 'center')
            CornerCrop(crop_size=(224, 224), position='center')
        """
        return f'{type(self).__name__}(crop_size={self.crop_size}, position={self.position!r})'
