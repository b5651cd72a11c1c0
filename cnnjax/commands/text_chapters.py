"""The parts of the page of `look` for a network of texts."""

import numpy as np

from cnnjax import look
from cnnjax.commands.chapters import Chapter, Drawn, dead_units, features, predictions
from cnnjax.commands.subject import Subject
from cnnjax.data.texts import decode
from cnnjax.pictures import words

SEARCHED, SHOWN = 24, 8
"""The number of texts of each unit, and of different n-grams of them that are drawn."""
LONGEST, MOST = 8, 5
"""The number of words of an n-gram that is drawn whole; of a longer one, the words that contribute most."""
GRIDS = "filters, feature maps, receptive fields, inputs found by maximization, attributions"


def of_units(subject: Subject) -> Chapter:
    """Draws the words that activate units most, and counts dead units."""
    omitted = [(GRIDS, "the inputs are words, which are not a grid of numbers")]
    kinds = {layer.kind for layer in subject.outline.values()}
    if "Embed" not in kinds or not subject.layers:
        reason = "the network has no nnx.Embed" if subject.layers else "no hidden layer has weights"
        return Chapter("Units", dead_units(subject), omitted=[*omitted, ("words that activate units", reason)])
    found = {layer: _ngrams(subject, layer) for layer in subject.layers}
    pictures = [_drawn(subject, layer, units) for layer, units in found.items()]
    facts = {
        layer: {str(unit): list(map(list, best)) for unit, best in units.items()} for layer, units in found.items()
    }
    return Chapter("Units", [*pictures, *dead_units(subject)], facts={"words": facts}, omitted=omitted)


def _ngrams(subject: Subject, layer: str) -> dict[int, list[tuple[str, float]]]:
    """Returns the different n-grams that activate each unit most, with the activations."""
    top = look.top_examples(subject.network, subject.variables, subject.standardized, layer, SEARCHED)
    found = {}
    for unit in subject.units(layer):
        tokens = np.asarray(subject.searched.inputs)[top.examples[unit]]
        units = np.full(len(tokens), unit)
        shares = look.token_contributions(
            subject.network, subject.variables, subject.inputs(tokens), layer, units, top.positions[unit]
        )
        best: dict[str, float] = {}
        for text, share, value in zip(tokens, np.asarray(shares), top.values[unit].tolist(), strict=True):
            if shown := _ngram(subject, text, share):
                best.setdefault(shown, value)
        found[unit] = [*best.items()][:SHOWN]
    return found


def _ngram(subject: Subject, tokens: np.ndarray, shares: np.ndarray) -> str:
    """Returns the words between the first and the last that contribute; of many, those that contribute most."""
    places = np.flatnonzero(shares)
    if not len(places):
        return ""
    if places[-1] - places[0] < LONGEST:
        return decode(tokens[places[0] : places[-1] + 1], subject.data.vocabulary)
    most = np.sort(np.argsort(-shares)[:MOST])
    return " … ".join(subject.data.vocabulary[token] for token in tokens[most])


def _drawn(subject: Subject, layer: str, found: dict[int, list[tuple[str, float]]]) -> Drawn:
    count = subject.outline[layer].units
    some = f"{len(found)} of {count} units. " if len(found) < count else ""
    figure = words.ngrams(
        {f"unit {unit}": best for unit, best in found.items()},
        f"{subject.name}: the words that activate units of {layer}",
        f"{some}Numbers are activations.",
    )
    text = (
        "The words of the validation texts that activate each unit most: those between the first and the last that "
        "its activation depends on. What they share is what the unit detects. Each text counts once, and equal words "
        "are shown once."
    )
    alt = "; ".join(f"unit {unit}: {', '.join(entry for entry, _ in best[:3])}" for unit, best in found.items())
    return Drawn(f"units-{layer}".replace(":", "-"), figure, f"Units of {layer}", text, f"{alt}.")


CHAPTERS = (of_units, features, predictions)
