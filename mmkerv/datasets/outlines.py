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


def convex_hull(points: np.ndarray) -> np.ndarray:
    """Return the corners (N, 2) of the smallest convex polygon around ``points`` (M, 2), of positive signed area.

    Example:
        >>> convex_hull(np.array([[0, 0], [4, 0], [2, 1], [4, 4], [0, 4]])).tolist()
        [[0, 0], [4, 0], [4, 4], [0, 4]]
    """
    ordered = sorted({tuple(point) for point in points.tolist()})

    def chain(points: list[tuple]) -> list[tuple]:
        kept: list[tuple] = []
        for x, y in points:
            # The middle one of three points goes if they do not turn right on the screen.
            while len(kept) > 1 and (kept[-1][0] - kept[-2][0]) * (y - kept[-2][1]) <= (kept[-1][1] - kept[-2][1]) * (
                x - kept[-2][0]
            ):
                kept.pop()
            kept.append((x, y))
        return kept[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]))


def smallest_rectangle(points: np.ndarray) -> np.ndarray:
    """Return the corners (4, 2) of the rectangle of smallest area, at any angle, around ``points`` (M, 2).

    They go clockwise on the screen, from the one nearest to the upper left.

    Example:
        >>> smallest_rectangle(np.array([[3, 1], [5, 3], [3, 5], [1, 3]])).round(6).tolist()
        [[3.0, 1.0], [5.0, 3.0], [3.0, 5.0], [1.0, 3.0]]
    """
    hull = convex_hull(points).astype(float)
    edges = np.roll(hull, -1, axis=0) - hull
    # One side of the rectangle lies on an edge of the hull.
    angles = np.sort(np.unique(np.round(np.arctan2(edges[:, 1], edges[:, 0]) % (np.pi / 2), 9)))
    along = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    u, v = hull @ along.T, hull @ across.T
    areas = np.round(np.ptp(u, axis=0) * np.ptp(v, axis=0), 6)
    best = int(areas.argmin())
    (u0, u1), (v0, v1) = ((w[:, best].min(), w[:, best].max()) for w in (u, v))
    corners = np.array([(u0, v0), (u1, v0), (u1, v1), (u0, v1)]) @ np.stack([along[best], across[best]])
    first = int(np.round(corners.sum(axis=1), 6).argmin())
    return np.roll(corners, -first, axis=0)


def has_hole(mask: np.ndarray) -> bool:
    """Return whether a mask (H, W) has a hole, which the polygons of COCO cannot express.

    Example:
        >>> has_hole(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]]))
        True
    """
    return any(signed_area(outline) < 0 for outline in trace_outlines(mask))
