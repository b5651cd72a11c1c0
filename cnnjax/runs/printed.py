"""Formats results for `print`, in a few lines without arrays."""

from collections.abc import Mapping

from cnnjax.data import Spec


def printed(title: str, facts: Mapping[str, str]) -> str:
    """Formats a title, and one line for each fact that is not empty."""
    width = max(map(len, facts))
    return "\n".join([title, *(f"  {name:{width}}  {value}" for name, value in facts.items() if value)])


def describe_inputs(name: str, spec: Spec) -> str:
    """Describes a data set in one line, such as `digits: uint8[8, 8, 1], 10 classes`."""
    labels = f"{len(spec.classes)} classes" if spec.classes else f"labels {spec.label_dtype}{list(spec.label_shape)}"
    if spec.tokens:
        return f"{name}: texts of up to {spec.shape[0]} words, {spec.tokens:,} tokens, {labels}"
    return f"{name}: {spec.dtype}{list(spec.shape)}, {labels}"
