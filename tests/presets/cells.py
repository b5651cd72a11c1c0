"""Patterns in noise, imported by a preset from its own directory."""

import numpy as np

SHAPES = [
    ["..#..", "..#..", "#####", "..#..", "..#.."],
    [".###.", "#...#", "#...#", "#...#", ".###."],
    [".....", ".....", "#####", "#####", "....."],
    [".....", "..##.", "..##.", ".....", "....."],
]


def patterns(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images [count, 8, 8, 1] of the shapes at random places under noise, and which shape each shows."""
    masks = np.array([[[cell == "#" for cell in row] for row in shape] for shape in SHAPES], np.float32)
    labels = (np.arange(count) % len(SHAPES)).astype(np.int32)
    images = rng.normal(0, 0.3, (count, 8, 8, 1)).astype(np.float32)
    for image, label, (y, x) in zip(images, labels, rng.integers(0, 4, (count, 2)), strict=True):
        image[y : y + 5, x : x + 5, 0] += masks[label]
    return images, labels
