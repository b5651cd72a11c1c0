"""The parts of the page of `look`: each function computes and draws what one part shows."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cnnjax import look
from cnnjax.commands import checks
from cnnjax.commands.subject import LAYERS, Subject, evenly
from cnnjax.data.texts import decode
from cnnjax.pictures import attributions as explained
from cnnjax.pictures import evaluation, layers, units, words
from cnnjax.pictures.sheet import note

ROWS, WRONG, NEIGHBORS, FIELDS, BARS = 5, 18, 500, 8, 30
"""The largest number of examples with attributions in a picture, of mistakes, of points in an embedding, of receptive
fields, and of layers with a row in other pictures."""
AROUND = 3
"""How many receptive fields wide the part of a series is that is drawn for a unit."""
NO_MAPS, NO_CLASSES = "no layer has feature maps", "the labels are not classes"


class Drawn(NamedTuple):
    """A picture with its explanation."""

    name: str
    """The name of its file."""
    figure: Any
    title: str
    text: str
    alt: str


class Chapter(NamedTuple):
    """A part of the page."""

    title: str
    pictures: Sequence[Drawn] = ()
    text: str = ""
    """Above the pictures."""
    lines: Sequence[str] = ()
    """What the command prints."""
    facts: Any = None
    """The same as numbers."""
    omitted: Sequence[tuple[str, str]] = ()
    """Pictures that the network does not allow, with the reason."""


# ------------------------------------------------------------------------- layers


def filters(subject: Subject) -> Chapter:
    """Draws the filters of the first convolution, and measures the smoothness of those of all."""
    found = checks.smoothness(subject)
    if not found:
        return Chapter("Filters", omitted=[("filters", "no convolution has a window of more than one cell")])
    first = next(iter(found))
    before, after = found[first]
    example = subject.inputs(subject.searched.inputs[:1])
    initial = look.kernels(subject.network, subject.initial, example, first)[first]
    kernel = np.asarray(subject.kernels[first])
    noise = 0.5 ** (kernel.ndim - 2)
    count = kernel.shape[-1]
    some = f", the first {layers.FILTERS} of {count}" if count > layers.FILTERS else ""
    channels = kernel.shape[-2]
    drawn = "their mean over the channels" if kernel.ndim != 3 and channels not in (1, 3) else ""
    changed = f"Mean spectral smoothness {before:.2f} before, {after:.2f} after training (white noise: {noise:g})."
    figure = layers.filters(
        np.asarray(initial),
        kernel,
        f"{subject.name}: filters of {first}{some}",
        changed,
        drawn and f"Drawn is {drawn}.",
    )
    colors = "Colors are those of the input" if channels == 3 else "Red weights are positive, blue ones negative"
    colors = "Each curve is a channel" if kernel.ndim == 3 else colors
    text = (
        f"The filters of {first} as training began and as it ended, each scaled to its own largest weight. {colors}; "
        f"a larger smoothness means that the filters respond to structures rather than to single cells."
    )
    alt = f"{min(count, layers.FILTERS)} filters before training on the left, and after training on the right."
    values = ", ".join(f"{layer} {a:.3f} and {b:.3f}" for layer, (a, b) in found.items())
    line = f"spectral smoothness of filters before and after training (white noise: {noise:g}): {values}"
    facts = {layer: {"before": a, "after": b} for layer, (a, b) in found.items()}
    drawing = Drawn("filters", figure, "First-layer filters", text, alt)
    return Chapter("Filters", [drawing], _sentence(line), [line], {"smoothness": facts})


def _sentence(line: str) -> str:
    return f"{line[:1].upper()}{line[1:]}." if line else ""


def feature_maps(subject: Subject) -> Chapter:
    """Draws the outputs of the layers for one input, and their receptive fields."""
    example = np.asarray(subject.attributed.inputs[:1])
    names = [*subject.given] or None
    found = look.activations(subject.network, subject.variables, subject.inputs(example), names)
    outputs = {name: np.asarray(output[0]) for name, output in found.items()}
    different = [
        name
        for name, before in zip(outputs, [None, *outputs.values()], strict=False)
        if not _equal(outputs[name], before)
    ]
    shown = evenly([name for name in different if outputs[name].ndim in (1, example.ndim - 1)], 2 * LAYERS)
    some = f"{len(shown)} of {len(different)} layers. " if len(shown) < len(different) else ""
    figure = layers.feature_maps(
        example[0],
        {name: outputs[name] for name in shown},
        subject.limits,
        f"{subject.name}: feature maps of one input",
        f"{some}At most {layers.MAPS} maps or {layers.STRIP} units of a layer.",
        note(subject.spec.shape),
    )
    text = (
        "The output of each layer for the input in the first row, in the order of the calls. Bright cells are large "
        "values; all maps of a layer share one scale."
    )
    alt = f"Feature maps of {len(shown)} layers for one validation example, a row for each layer."
    pictures = [Drawn("feature-maps", figure, "Feature maps", text, alt)]
    if not subject.maps:
        return Chapter("Layers", pictures, omitted=[("receptive fields", NO_MAPS)])
    return Chapter("Layers", [*pictures, _receptive_fields(subject, example[0])])


def _equal(first: np.ndarray, second: np.ndarray | None) -> bool:
    return second is not None and np.array_equal(first, second)


def _receptive_fields(subject: Subject, example: np.ndarray) -> Drawn:
    names = [name for name in subject.given or subject.maps if name in subject.fields]
    different = {subject.fields[name].size: name for name in reversed(names)}
    shown = evenly([*reversed(different.values())], FIELDS)
    middles = {name: tuple((size - 1) // 2 for size in subject.outline[name].shape[:-1]) for name in shown}
    figure = layers.receptive_fields(
        example,
        {name: subject.fields[name] for name in shown},
        middles,
        subject.limits,
        f"{subject.name}: receptive fields",
        "The first layer with each size.",
    )
    text = (
        "The part of the input that a unit in the middle of each layer depends on. Deeper layers see larger parts; "
        "what lies outside of the input is padding."
    )
    alt = "Nested frames on a validation example: " + ", ".join(
        f"{name} {' x '.join(map(str, subject.fields[name].size))}" for name in shown
    )
    return Drawn("receptive-fields", figure, "Receptive fields", text, alt + ".")


# ------------------------------------------------------------------------- units


def of_units(subject: Subject) -> Chapter:
    """Draws what activates units and outputs, and counts dead units."""
    found = checks.searched(subject)
    pictures = [_units(subject, layer, units) for layer, units in found.items()]
    omitted = []
    if subject.output:
        pictures.append(_outputs(subject, subject.output))
    else:
        omitted.append(("inputs that maximize the outputs", "the output of the network is not that of a layer"))
    line, facts = _reached(subject, found)
    dead = dead_units(subject)
    lines = [line] if line else []
    return Chapter("Units", [*pictures, *dead], _sentence(line), lines, {"reached": facts}, omitted)


def _reached(subject: Subject, found: dict[str, checks.Searched]) -> tuple[str, dict[str, Any]]:
    ratios = checks.reached(subject, found)
    fixed = sum(map(len, checks.fixed_units(subject).values()))
    facts = {"units": ratios, "quartiles": checks.quartiles([*ratios.values()]) if ratios else []}
    if not fixed:
        return "", facts
    what = f"activation reached by maximization / largest on {len(subject.searched.labels):,} validation examples"
    inactive = f", {fixed - len(ratios)} of them positive for no example and left out" if len(ratios) < fixed else ""
    if not ratios:
        return f"{what}: no unit is positive for any example", facts
    low, *middle, high = facts["quartiles"]
    quartiles = " ".join(f"{value:.2f}" for value in middle)
    return f"{what}, {fixed} units{inactive}: min {low:.2f}, quartiles {quartiles}, max {high:.2f}", facts


def _units(subject: Subject, layer: str, found: checks.Searched) -> Drawn:
    field = subject.fields.get(layer)
    around, marked = _around(field, subject.spec.shape)
    middle = tuple(size // 2 for size in subject.outline[layer].shape[:-1])
    rows = []
    for unit in subject.units(layer):
        best = subject.stored(found.maximized.inputs[[found.at(unit)]])
        inputs = np.asarray(subject.searched.inputs, float)[found.top.examples[unit]]
        starts: list[int] = []
        if field and around:
            best = _patches(best, around, np.array([middle]))
            inputs = _patches(inputs, around, found.top.positions[unit])
            if marked:
                starts = np.maximum(0, field.offset + field.stride * found.top.positions[unit]).ravel().tolist()
        reached = float(found.maximized.values[found.at(unit)])
        rows.append(units.Unit(unit, best[0], reached, [*inputs], found.top.values[unit].tolist(), starts))
    count = subject.outline[layer].units
    what = "receptive field" if field else "input"
    some = f"{len(rows)} of {count} units. " if len(rows) < count else ""
    figure = units.units(
        rows,
        subject.limits,
        f"{subject.name}: what activates units of {layer}",
        f"{some}Numbers are activations" + (", and the step at which the shaded part begins." if marked else "."),
        note(subject.spec.shape),
        marked=marked,
    )
    text = (
        f"On the left the {what} of each unit in an input found by gradient ascent; on the right the {what}s of the "
        f"validation examples that activate the unit most. If both sides show the same structure, the unit detects it; "
        "the ascent keeps inputs smooth, so it may reach less than the data."
        + (f" The {what} is shaded; around it are the steps before and after." if marked else "")
    )
    alt = f"{len(rows)} units of {layer} in rows, each with a maximized input and {len(rows[0].patches)} examples."
    return Drawn(f"units-{layer}".replace(":", "-"), figure, f"Units of {layer}", text, alt)


def _patches(inputs: Any, field: look.ReceptiveField, positions: Any) -> np.ndarray:
    """Returns the receptive fields of a unit, limited to the whole input; cells outside of the input are NaN."""
    if all(size >= cells for size, cells in zip(field.size, inputs.shape[1:-1], strict=True)):
        return inputs
    return look.patches(inputs, field, positions, fill=math.nan)


def _around(
    field: look.ReceptiveField | None, shape: Sequence[int]
) -> tuple[look.ReceptiveField | None, tuple[float, float] | None]:
    """Returns the part of an input that is drawn for a unit, and the share of it that the receptive field takes.

    Of series, steps around the receptive field are drawn as well, because a few steps alone have little shape.
    """
    if field is None or len(shape) != 2 or not field.stride[0]:
        return field, None
    [size], [offset] = field.size, field.offset
    margin = (min(AROUND * size, shape[0] - 1) - size) // 2
    if margin < 1:
        return field, None
    whole = size + 2 * margin
    return field._replace(size=(whole,), offset=(offset - margin,)), (margin / whole, (margin + size) / whole)


def _outputs(subject: Subject, layer: str) -> Drawn:
    numbers = evenly(range(subject.spec.outputs), 20)
    low, high = subject.bounds
    found = look.maximize(subject.network, subject.variables, subject.key, layer, numbers, low, high)
    names = [
        f"{subject.class_name(number)}\n{value:.1f}"
        for number, value in zip(numbers, found.values.tolist(), strict=True)
    ]
    figure = units.maximized(
        [*subject.stored(found.inputs)],
        names,
        subject.limits,
        f"{subject.name}: inputs that maximize each output",
        "Numbers are outputs (logits)." if subject.spec.classes else "Numbers are outputs.",
        note(subject.spec.shape),
    )
    text = (
        "For each output, an input found by gradient ascent within the range of the data. It shows which structures "
        "raise the output; it need not look like an example, and no example may reach its value."
    )
    alt = f"Inputs that maximize {', '.join(subject.class_name(number) for number in numbers)}."
    return Drawn("outputs", figure, "Inputs that maximize the outputs", text, alt)


def dead_units(subject: Subject) -> list[Drawn]:
    """Draws the dead units of layers with weights; a layer that a normalization follows is left out for it."""
    kinds = [layer.kind for layer in subject.outline.values()]
    names = [*subject.outline]
    usable = {name for name, after in zip(names, [*kinds[1:], ""], strict=True) if "Norm" not in after}
    measured = {name for name, kind in zip(names, kinds, strict=True) if name in subject.weighted or "Norm" in kind}
    shown = evenly([name for name in names if name in usable & measured and name != subject.output], BARS)
    if not shown:
        return []
    dead = look.dead_units(subject.network, subject.variables, subject.standardized, shown)
    figure = layers.dead_units(
        {name: np.asarray(dead[name]) for name in shown},
        f"{subject.name}: dead units",
        f"Units that are positive for none of {len(subject.searched.labels):,} validation examples.",
    )
    text = (
        "The share of units of each layer that are positive for no example at any position. Before a ReLU, such a "
        "unit passes nothing on and is no longer trained."
    )
    counts = ", ".join(f"{name} {int(dead[name].sum())} of {len(dead[name])}" for name in shown)
    return [Drawn("dead-units", figure, "Dead units", text, f"Dead units: {counts}.")]


# ------------------------------------------------------------------------- attributions


def attributions(subject: Subject) -> Chapter:
    """Draws attributions of examples, and checks whether they depend on the trained parameters."""
    used = checks.methods(subject)
    found = {name: np.asarray(method(subject.variables)) for name, method in used.items()}
    rows = min(ROWS, len(subject.targets))
    labels = subject.classes_of(subject.attributed)
    target = [f"predicted {subject.class_name(number)}" for number in subject.targets[:rows].tolist()]
    if subject.spec.classes:
        names = [f"{subject.class_name(label)}\n{word}" for label, word in zip(labels.tolist(), target, strict=False)]
    else:
        names = [f"example {number}" for number in range(1, rows + 1)]
    channels = [name for name, values in found.items() if values.ndim == len(subject.spec.shape) + 1]
    flat = {name: values.sum(-1) if name in channels else values for name, values in found.items()}
    several = len(subject.spec.shape) > 1 and subject.spec.shape[-1] > 1
    what = "the logit of the predicted class" if subject.spec.classes else "the first output"
    figure = explained.attributions(
        [*np.asarray(subject.attributed.inputs)[:rows]],
        names,
        {name: [*values[:rows]] for name, values in flat.items()},
        subject.limits,
        f"{subject.name}: attributions of {what}",
        "Attributions are summed over channels." if several else "",
        note(subject.spec.shape),
    )
    text = (
        f"How much each part of an input contributes to {what}, by {len(used)} methods: red raises it, blue lowers it, "
        "and each map is scaled to its own largest values. The methods answer different questions and need not agree; "
        "the next picture shows which of them depend on what was learned."
    )
    alt = f"{rows} validation examples in rows, with attributions by {', '.join(used)}."
    lacking = [("Grad-CAM", NO_MAPS, "Grad-CAM"), ("occlusion", "the inputs have no spatial dimension", "occlusion")]
    checked, lines, facts = _randomization(subject, found, used)
    return Chapter(
        "Attributions",
        [Drawn("attributions", figure, "Attributions", text, alt), checked],
        "",
        lines,
        {"randomization": facts},
        [(name, reason) for name, reason, method in lacking if method not in used],
    )


def _randomization(
    subject: Subject, found: dict[str, np.ndarray], used: dict[str, checks.Method]
) -> tuple[Drawn, list[str], dict[str, Any]]:
    result = checks.randomization(subject, found, used)
    examples = len(subject.targets)
    failed = ", ".join(result.failed) or "none"
    figure = explained.randomization(
        result.layers,
        result.correlations,
        checks.CRITERION,
        f"{subject.name}: attributions as layers are randomized",
        f"Mean over {examples} validation examples. Methods that fail: {failed}.",
    )
    text = (
        "The rank correlation between the attributions of the trained network and those of networks whose layers are "
        "random, from the output (left) down to the first layer (right) (Adebayo et al. 2018). A method fails if the "
        f"correlation is still above {checks.CRITERION:g} with all layers random: it then shows the input rather than "
        "what was learned."
    )
    values = ", ".join(f"{name} {_written(numbers[-1])}" for name, numbers in result.correlations.items())
    lines = ["rank correlation with the attribution of the trained network, by the layer down to which all are random:"]
    width = max(map(len, result.correlations))
    lines += [f"  {' ' * width}  {'  '.join(result.layers)}"]
    for name, numbers in result.correlations.items():
        cells = [_written(number).rjust(len(layer)) for number, layer in zip(numbers, result.layers, strict=True)]
        lines.append(f"  {name.ljust(width)}  {'  '.join(cells)}")
    lines.append(f"methods that fail the check (above {checks.CRITERION:g} with all layers random): {failed}")
    facts = {**result._asdict(), "criterion": checks.CRITERION, "examples": examples}
    return (
        Drawn("randomization", figure, "Randomization check", text, f"With all layers random: {values}."),
        lines,
        facts,
    )


def _written(correlation: float) -> str:
    return "undefined" if math.isnan(correlation) else f"{correlation:.2f}"


# ------------------------------------------------------------------------- examples


def features(subject: Subject) -> Chapter:
    """Draws the features of the last hidden layer in two dimensions."""
    names = [*subject.outline]
    hidden = names[names.index(subject.output) - 1] if subject.output and names.index(subject.output) else None
    stored = np.asarray(subject.searched.inputs)[:NEIGHBORS]
    labels = subject.classes_of(subject.searched)[:NEIGHBORS]
    if hidden:
        table = subject.over(
            lambda batch: look.activations(subject.network, subject.variables, subject.inputs(batch), [hidden])[hidden],
            stored,
        )
    else:
        table = np.asarray(subject.inputs(stored))
    table = table.reshape(len(table), -1)
    if len(table) < 3 or table.shape[1] < 2:
        return Chapter("Features", omitted=[("features in two dimensions", "there are fewer than two of them")])
    what = f"the outputs of {hidden}" if hidden else "the inputs"
    figure = evaluation.embedding(
        {"PCA": look.projection(table, "pca"), "t-SNE": look.projection(table, "tsne", seed=subject.seed)},
        labels.reshape(len(labels), -1)[:, 0],
        subject.spec.classes,
        f"{subject.name}: {what} for {len(table):,} validation examples",
    )
    by = "class" if subject.spec.classes else "label"
    text = (
        f"Each point is a validation example, placed by {what} and colored by its {by}: on the left the two directions "
        "of largest variance, on the right t-SNE, which keeps neighbors together. Groups of one color are what the "
        "last layer can tell apart; distances between groups mean little in t-SNE."
    )
    alt = f"Two scatter plots of {len(table)} validation examples, colored by {by}."
    return Chapter("Features", [Drawn("features", figure, "Features in two dimensions", text, alt)])


def predictions(subject: Subject) -> Chapter:
    """Draws confusion matrix, precision and recall, calibration and mistakes over the whole validation split."""
    classes = subject.spec.classes
    if not classes:
        names = "confusion matrix, precision and recall, calibration, mistakes"
        return Chapter("Predictions", omitted=[(names, NO_CLASSES)])
    scores, labels = subject.probabilities, subject.labels
    per_class, calibration = look.per_class(scores, labels), look.calibration(scores, labels)
    examples = f"{len(labels):,} validation examples"
    counts = look.confusion(scores, labels)
    right = float(np.trace(counts) / counts.sum())
    title = subject.name
    pictures = [
        Drawn(
            "confusion",
            evaluation.confusion(counts, classes, f"{title}: confusion matrix of {examples}"),
            "Confusion matrix",
            "How often each class (row) is predicted as each class (column); colors have a square-root scale, so that "
            "few mistakes are visible. What is off the diagonal is wrong.",
            f"Confusion matrix; {100 * right:.2f} % of the examples are on the diagonal.",
        ),
        Drawn(
            "per-class",
            evaluation.per_class(per_class, classes, f"{title}: precision and recall on {examples}"),
            "Precision and recall",
            "Precision is the share of the predictions of a class that are right, recall the share of its examples "
            "that are found. The class with the lowest F1 score is at the top; brackets have the number of examples.",
            f"Precision and recall of {len(classes)} classes as dots.",
        ),
        Drawn(
            "calibration",
            evaluation.calibration(
                calibration,
                f"{title}: calibration on {examples}",
                f"Expected calibration error {calibration.error:.3f}.",
            ),
            "Calibration",
            "The accuracy of predictions by their confidence, in bins; bars below the diagonal mean that the network "
            "is too confident. The lower bars show how many predictions each bin has, and few vary by chance.",
            f"Reliability diagram with an expected calibration error of {calibration.error:.3f}.",
        ),
        *mistakes(subject),
    ]
    recall = dict(zip(classes, per_class.recall.tolist(), strict=True))
    facts = {"accuracy": right, "calibration_error": calibration.error, "recall": recall}
    return Chapter("Predictions", pictures, lines=[_recalled(per_class, classes)], facts=facts)


def _recalled(found: look.PerClass, classes: Sequence[str]) -> str:
    worst, mean = int(np.nanargmin(found.recall)), np.nanmean(found.recall)
    return (
        f"recall on {found.support.sum():,} validation examples: lowest {100 * found.recall[worst]:.2f} % (class "
        f"{classes[worst]}, {found.support[worst]:,} examples), mean of the classes {100 * mean:.2f} %"
    )


def mistakes(subject: Subject) -> list[Drawn]:
    """Draws the most confident mistakes."""
    found = look.mistakes(subject.probabilities, subject.labels)
    if not len(found.examples):
        return []
    shown = look.Mistakes(*(part[:WRONG] for part in found))
    names = [
        f"{subject.class_name(label)}\nas {subject.class_name(predicted)}\n{100 * confidence:.0f} %"
        for label, predicted, confidence in zip(shown.labels, shown.predictions, shown.confidence, strict=True)
    ]
    inputs = [*np.asarray(subject.valid.inputs)[shown.examples]]
    title = f"{subject.name}: most confident mistakes, {len(names)} of {len(found.examples)}"
    what = "Each is named by its label, the predicted class and its probability."
    if subject.spec.tokens:
        figure = words.passages([decode(tokens, subject.data.vocabulary) for tokens in inputs], names, title, what)
    else:
        figure = evaluation.mistakes(inputs, names, subject.limits, title, what, note(subject.spec.shape))
    text = (
        "The wrong predictions of which the network is most confident, with the label, the predicted class and its "
        "probability. Look for wrong labels, for examples that are hard for people too, and for what they share."
    )
    alt = "; ".join(name.replace("\n", " ") for name in names)
    return [Drawn("mistakes", figure, "Most confident mistakes", text, f"{alt}.")]


CHAPTERS = (filters, feature_maps, of_units, attributions, features, predictions)
