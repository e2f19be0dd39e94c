"""Outlines of pixel masks as polygons, the inverse of filling a polygon."""

import numpy as np

# Right, down, left, up: each is a right turn from the one before.
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def trace_outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Trace the borders between the pixels inside and outside of a mask.

    The outlines follow the pixel borders, so filling them restores the mask exactly: pixel ``mask[y, x]`` is the square
    from (x, y) to (x + 1, y + 1). Each 4-connected part has one outline around it, of positive :func:`signed_area`, and
    one around each of its holes, of negative area.

    Args:
        mask: pixels inside, (H, W), bool.

    Returns:
        One integer array (N, 2) of corner points (x, y) for each outline; the last point does not repeat the first.

    Example:
        >>> mask = np.zeros((4, 5), dtype=bool)
        >>> mask[1:3, 1:4] = True
        >>> trace_outlines(mask)[0].tolist()
        [[1, 1], [4, 1], [4, 3], [1, 3]]
    """
    padded = np.pad(np.asarray(mask, dtype=bool), 1)
    inside = padded[1:-1, 1:-1]
    # For each direction of a step: the neighbour across the border that is walked in this direction, with the pixel on
    # the right, and the corner of the pixel where the step starts.
    neighbours = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    corners = ((0, 0), (1, 0), (1, 1), (0, 1))
    leaving: dict[tuple[int, int], list[int]] = {}
    for direction, (neighbour, (dx, dy)) in enumerate(zip(neighbours, corners, strict=True)):
        for y, x in np.argwhere(inside & ~neighbour).tolist():
            leaving.setdefault((x + dx, y + dy), []).append(direction)

    outlines = []
    for start in sorted(leaving):
        while leaving[start]:
            outlines.append(_walk(start, leaving))
    return outlines


def _walk(start: tuple[int, int], leaving: dict[tuple[int, int], list[int]]) -> np.ndarray:
    """Follow the steps from the corner ``start`` until they return to it; remove them and return the corners."""
    first = direction = leaving[start].pop()
    (x, y), corners = start, [start]
    while True:
        x, y = x + STEPS[direction][0], y + STEPS[direction][1]
        right_turn, options = (direction + 1) % 4, leaving[x, y]
        if (x, y) == start and (not options or right_turn == first):
            return np.array(corners)
        # Two steps leave a corner at which two pixels touch; the right turn stays at the same pixel.
        step = right_turn if len(options) == 2 else options[0]
        options.remove(step)
        if step != direction:
            corners.append((x, y))
        direction = step


def signed_area(outline: np.ndarray) -> float:
    """Return the area enclosed by an outline (N, 2), by the shoelace formula; negative for the outline of a hole.

    Example:
        >>> signed_area(np.array([[1, 1], [4, 1], [4, 3], [1, 3]]))
        6.0
    """
    x, y = outline[:, 0], outline[:, 1]
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def has_hole(mask: np.ndarray) -> bool:
    """Return whether a mask (H, W) has a hole, which the polygons of COCO cannot express.

    Example:
        >>> has_hole(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]]))
        True
    """
    return any(signed_area(outline) < 0 for outline in trace_outlines(mask))
