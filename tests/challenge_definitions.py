"""The prompts of three challenges from their definitions, plainly and slowly."""

from __future__ import annotations

import itertools
import random

import networkx
import numpy as np
from scipy import ndimage
from skimage.draw import line
from skimage.morphology import skeletonize

from voxclick.simulation.challenges.autopet4 import PreSimulatedClicks
from voxclick.simulation.challenges.autopet5 import Strategy


def components_in_order(region: np.ndarray) -> list[np.ndarray]:
    """26-connected, ordered by their first voxel with i counting fastest."""
    numbered, count = ndimage.label(region, np.ones((3, 3, 3)))
    parts = [numbered == number for number in range(1, count + 1)]
    return sorted(parts, key=lambda part: np.flatnonzero(part.ravel(order="F"))[0])


def is_border(part: np.ndarray) -> np.ndarray:
    """Voxels of the part with one outside of it across a face."""
    faces = ndimage.generate_binary_structure(3, 1)
    return part & ~ndimage.binary_erosion(part, faces, border_value=1)


def click_again(region: np.ndarray, count: int, draws, second_choice):
    """Centres of random components, then random voxels of what `second_choice` gives."""
    parts = components_in_order(region)
    chosen = draws.choice(len(parts), min(count, len(parts)), replace=False) if parts else []
    depths = [ndimage.distance_transform_edt(parts[n]) for n in chosen]
    clicks = [tuple(np.argwhere(depth == depth.max())[0].tolist()) for depth in depths]
    while parts and len(clicks) < count:
        part = parts[chosen[len(clicks) % len(chosen)]]
        candidates = np.argwhere(second_choice(part))
        clicks.append(tuple(candidates[draws.choice(len(candidates))].tolist()))
    return tuple(clicks)


def any_voxel_or_anything_else(part: np.ndarray) -> np.ndarray:
    """What the script's border of a high-uptake component really is."""
    return part if len(np.unique(ndimage.distance_transform_edt(part)[part])) > 1 else ~part


def high_uptake(label: np.ndarray, pet: np.ndarray) -> np.ndarray:
    exact = pet.astype(np.float64)
    return (exact > np.percentile(exact[~label], 99.75)) & ~label


def autopet4_clicks(label, pet, count, seed) -> PreSimulatedClicks:
    draws = np.random.RandomState(seed)
    tumor = click_again(label, count, draws, is_border)
    hot = high_uptake(label, pet)
    return PreSimulatedClicks(tumor, click_again(hot, count, draws, any_voxel_or_anything_else))


EIGHT = np.ones((3, 3))
FOUR = ndimage.generate_binary_structure(2, 1)


def largest_on_any_slice(region: np.ndarray) -> tuple[np.ndarray, int] | None:
    found = []
    for k in range(region.shape[2]):
        numbered, count = ndimage.label(region[:, :, k], EIGHT)
        for number in range(1, count + 1):
            part = numbered == number
            first = np.flatnonzero(part.ravel(order="F"))[0]
            found.append((-part.sum(), k, first, part))
    if not found:
        return None
    _, k, _, part = min(found, key=lambda entry: entry[:3])
    return part, k


def neighbours(pixel: tuple[int, int]) -> list[tuple[int, int]]:
    around = [(pixel[0] + i, pixel[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return [other for other in around if other != pixel]


def centerline_again(part: np.ndarray, seed: int) -> set[tuple[int, int]]:
    numbered, count = ndimage.label(skeletonize(part), EIGHT)
    skeletons = [np.argwhere(numbered == n).tolist() for n in range(1, count + 1)]
    skeleton = [tuple(pixel) for pixel in max(skeletons, key=len, default=[])]
    if len(skeleton) < 2:
        return {tuple(pixel) for pixel in np.argwhere(part).tolist()}
    graph = networkx.Graph()
    for pixel in skeleton:
        graph.add_edges_from((pixel, other) for other in neighbours(pixel) if other in skeleton)
    pairs = itertools.product(skeleton, repeat=2)
    start, end = max(
        pairs, key=lambda pair: (pair[0][0] - pair[1][0]) ** 2 + (pair[0][1] - pair[1][1]) ** 2
    )
    path = networkx.shortest_path(graph, start, end)
    if len(path) > 10:
        path = path[int(0.1 * len(path)) : int(0.9 * len(path))]
    return set(path)


def line_again(part: np.ndarray, seed: int) -> set[tuple[int, int]]:
    pixels = np.argwhere(part).tolist()
    if len(pixels) < 2:
        return {tuple(pixel) for pixel in pixels}
    draws = random.Random(seed)
    start, end = (pixels[draws.randrange(len(pixels))] for _ in range(2))
    drawn = zip(*(axis.tolist() for axis in line(*start, *end)), strict=True)
    return {pixel for pixel in drawn if part[pixel]}


def walk_again(part: np.ndarray, seed: int) -> set[tuple[int, int]]:
    is_boundary = part & ~ndimage.binary_erosion(part, FOUR, border_value=1)
    boundary = [tuple(pixel) for pixel in np.argwhere(is_boundary).tolist()]
    if len(boundary) < 2:
        return {tuple(pixel) for pixel in np.argwhere(part).tolist()}
    walk = [boundary[random.Random(seed).randrange(len(boundary))]]
    for _ in range(max(2, len(boundary) // 5)):
        left = [n for n in neighbours(walk[-1]) if n in boundary and n not in walk]
        if not left:
            break
        walk.append(left[0])
    return set(walk)


AGAIN = {
    Strategy.centerline: centerline_again,
    Strategy.random: line_again,
    Strategy.boundary: walk_again,
}


def autopet5_stroke(region: np.ndarray, strategy: Strategy, seed: int) -> tuple:
    found = largest_on_any_slice(region)
    if found is None:
        return ()
    part, k = found
    return tuple(sorted((i, j, k) for i, j in AGAIN[strategy](part, seed)))


def largest_error(label: np.ndarray, prediction: np.ndarray) -> np.ndarray | None:
    """In the challenge's axis order, (z, y, x)."""
    numbered, count = ndimage.label((label != prediction).T, np.ones((3, 3, 3)))
    components = [numbered == number for number in range(1, count + 1)]
    # the most voxels, then the earliest first voxel
    return min(components, key=lambda part: (-part.sum(), np.flatnonzero(part)[0]), default=None)


def drawn_as_published(depth: np.ndarray) -> tuple[int, int, int]:
    """One of the deepest voxels, with the seed set in NumPy's global generator."""
    deepest = np.argwhere(depth == depth.max()).tolist()
    kept = np.random.get_state()  # noqa: NPY002
    np.random.seed(42)  # noqa: NPY002
    z, y, x = deepest[np.random.choice(len(deepest))]  # noqa: NPY002
    np.random.set_state(kept)  # noqa: NPY002
    return (x, y, z)
