"""What a configuration is: fields by their annotation, trees by JAX's rules, checks, names, and how it is written and read."""

from __future__ import annotations

import enum
import json
import pickle
import random
import re
import sys
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import (
    SGD,
    Accuracy,
    Adam,
    AdamW,
    Augmentation,
    CNNConfig,
    Constant,
    Cosine,
    CrossEntropy,
    Flip,
    LeNet5Config,
    Linear,
    Lion,
    Loss,
    MLPConfig,
    Muon,
    NetworkConfig,
    OneCycle,
    Optimizer,
    Range,
    ResNetConfig,
    RMSprop,
    Schedule,
    Shift,
    SquaredError,
    Step,
    SweepConfig,
    TrainConfig,
    config,
    number,
    part,
    static,
)
from cnnjax.descriptions import PARTS, UnknownClassError, configuration, describe, foreign
from cnnjax.options import (
    Config,
    check,
    choose,
    flat_names,
    from_json,
    functions,
    has,
    kinds,
    options,
    resolve,
    suggest,
    update,
    with_values,
)

TRAIN = TrainConfig(CNNConfig())


class Norm(enum.Enum):
    LAYER = "layer"
    GROUP = "group"


def leaky(x: Any) -> Any:
    return jnp.maximum(x, 0.1 * x)


CALLS: list[Any] = []


def trap(*arguments: Any, **named: Any) -> Any:
    """A function of one's own that reading a description must not run."""
    CALLS.append((arguments, named))
    return CNNConfig()


class Shapes:
    """Where a function may live in a module, other than on top."""

    @staticmethod
    def bent(x: Any) -> Any:
        return jnp.abs(x)


@config
class Everything(Augmentation):
    """A field of each kind that there is, told from the annotation alone."""

    rate: float
    limit: float | None = None
    count: int = 2
    flag: bool = False
    word: str = "a"
    label: str | None = None
    norm: Norm = Norm.LAYER
    mode: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[str, float] = ("a", 1.0)
    act: str | Callable[[Any], Any] = "relu"
    schedule: Schedule = Cosine()
    maybe: Schedule | None = None
    several: tuple[Augmentation, ...] = ()
    either: Adam | SGD = SGD()


@config
class RandomErase(Augmentation):
    p: float = number(0.5, "probability", least=0, most=1)
    norm: Norm = Norm.LAYER
    inner: tuple[Augmentation, ...] = part((), "then")


@config
class SENetConfig(NetworkConfig):
    squeeze: float = number(0.5, "share", least=0)
    activation: str | Callable[[Any], Any] = static("relu", "any")
    kernels: tuple[tuple[int, int], ...] = static(((3, 3),), "of each layer")
    norm: Norm | None = static(None, "where there is one")
    other: NetworkConfig | None = None


@config
class Focal(Loss):
    gamma: float = 2.0
    weight: float | None = None


OWN = [RandomErase, SENetConfig, Focal, Norm, leaky, Shapes.bent, trap]


# ------------------------------------------------------------------------- what a field is


def test_the_annotation_decides() -> None:
    """As strings, too, which annotations of this module are."""
    assert dict(kinds(Everything)) == {
        "rate": "number",
        "limit": "number",
        "count": "static",
        "flag": "static",
        "word": "static",
        "label": "static",
        "norm": "static",
        "mode": "static",
        "sizes": "static",
        "pair": "static",
        "act": "static",
        "schedule": "part",
        "maybe": "part",
        "several": "parts",
        "either": "part",
    }
    assert kinds(RandomErase) == {"p": "number", "norm": "static", "inner": "parts"}
    value = Everything(0.5, several=(Flip(0.1),), maybe=Step(0.2), limit=0.3)
    assert jax.tree.leaves(value) == [0.5, 0.3, 0.0, 0.2, 0.5, 0.75, 0.1, 0.1, 0.1, 0.9, 0.0, 0.0]
    assert all(type(leaf) is float for leaf in jax.tree.leaves(TRAIN))


def test_static_overrules_the_annotation() -> None:
    @config
    class Fixed(Loss):
        rate: float = static(0.5, "structure")

    assert kinds(Fixed) == {"rate": "static"}
    assert jax.tree.leaves(Fixed()) == []
    assert jax.tree.structure(Fixed(0.1)) != jax.tree.structure(Fixed(0.2))


def test_numbers_are_leaves_and_all_else_is_structure() -> None:
    one, other = with_values(TRAIN, {"learning_rate": 0.3, "momentum": 0.5}), TRAIN
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert hash(jax.tree.structure(one)) == hash(jax.tree.structure(other))
    assert one != other
    assert hash(one) != hash(other)
    assert with_values(one, {"learning_rate": 0.1, "momentum": 0.9}) == other
    changes: list[dict[str, Any]] = [
        {"filters": (8,)},
        {"nesterov": True},
        {"dropout": 0.0},
        {"clip_norm": 1.0},
        {"schedule": Step()},
        {"loss": SquaredError()},
        {"optimizer": Adam()},
        {"augment": (Flip(),)},
        {"augment": (Flip(), Shift())},
        {"augment": (Shift(), Flip())},
        {"epochs": 3},
        {"activation": leaky},
    ]
    structures = [jax.tree.structure(with_values(TRAIN, change)) for change in ({}, *changes)]
    assert len(set(structures)) == len(structures)
    assert not any(a == b for a, b in combinations(structures, 2))


def test_classes_of_the_same_fields_are_different_structures() -> None:
    """Not by their hashes alone: caches of compiled programs compare what falls into one bucket."""
    parts = [Constant(), Cosine(), Step(), CrossEntropy(), SquaredError(), Everything(1.0)]
    assert not any(jax.tree.structure(a) == jax.tree.structure(b) for a, b in combinations(parts, 2))
    for value in parts:
        leaves, structure = jax.tree.flatten(value)
        assert jax.tree.unflatten(structure, leaves) == value
        with_paths = jax.tree_util.tree_flatten_with_path(value)[0]
        assert [leaf for _, leaf in with_paths] == leaves
    path, leaf = jax.tree.leaves_with_path(SGD(momentum=0.7))[1]
    assert (jax.tree_util.keystr(path), leaf) == (".momentum", 0.7)


def test_none_selects_another_structure_and_zero_a_lane() -> None:
    off, zero, some = (jax.tree.structure(CNNConfig(dropout=share)) for share in (None, 0.0, 0.3))
    assert off != zero == some


def test_configurations_go_through_jit_and_vmap() -> None:
    traced = []

    @jax.jit
    def total(value: Everything) -> Any:
        traced.append(value)
        assert value.sizes == (1, 2)
        return value.rate + value.schedule.warmup + sum(jax.tree.leaves(value.several))

    values = [Everything(rate, schedule=Cosine(rate / 2), several=(Flip(0.25),)) for rate in (0.5, 1.0, 2.0)]
    assert [float(total(value)) for value in values] == [1.0, 1.75, 3.25]
    assert len(traced) == 1
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *values)
    assert type(stacked) is Everything
    assert stacked.sizes == (1, 2)
    assert jax.vmap(total)(stacked).tolist() == [1.0, 1.75, 3.25]
    assert jax.grad(lambda value: value.rate**2)(values[2]).rate == 4.0
    assert jax.lax.map(lambda value: value.schedule.warmup, stacked).tolist() == [0.25, 0.5, 1.0]


@pytest.mark.parametrize("cls", [*PARTS.values(), TrainConfig, Everything], ids=lambda cls: cls.__name__)
def test_whatever_jax_puts_into_the_leaves_is_taken(cls: type[Config]) -> None:
    """It rebuilds trees with tracers, shapes, sentinels and whole trees: nothing may be compared."""
    given = {"network": CNNConfig(dropout=0.1)} if cls is TrainConfig else {"rate": 1.0} if cls is Everything else {}
    leaves, structure = jax.tree.flatten(cls(**given))
    for filling in (object(), None, "word", jnp.zeros(3), np.zeros((2, 2)), jax.ShapeDtypeStruct((), "float32"), {}):
        rebuilt = jax.tree.unflatten(structure, [filling] * len(leaves))
        assert type(rebuilt) is cls
    again = jax.tree.unflatten(structure, leaves)
    assert again == cls(**given)
    assert jax.tree.leaves(jax.eval_shape(lambda: jax.tree.map(jnp.asarray, again))) is not None
    with pytest.raises(ValueError, match=r"structure|mismatch"):
        jax.tree.map(lambda a, b: a, again, Focal() if cls is not CrossEntropy else SGD())


def test_lists_become_tuples_and_integers_floats() -> None:
    network = CNNConfig(filters=[8, 16], dense=[])  # type: ignore[arg-type]
    assert (network.filters, network.dense) == ((8, 16), ())
    assert network == CNNConfig(filters=(8, 16))
    assert SENetConfig(kernels=[[3, 3], [5, 5]]).kernels == ((3, 3), (5, 5))  # type: ignore[arg-type]
    assert TrainConfig(network, augment=[Flip()]).augment == (Flip(),)  # type: ignore[arg-type]
    for rate in (1, np.float32(1), np.float64(1)):
        given = SGD(learning_rate=rate, clip_norm=rate)
        assert (type(given.learning_rate), type(given.clip_norm)) == (float, float)
        assert given == SGD(learning_rate=1.0, clip_norm=1.0)
        check(given)
    check(TrainConfig(network, augment=[Flip()]))  # type: ignore[arg-type]
    assert type(TrainConfig(network, epochs=3).epochs) is int


def test_a_configuration_is_frozen_and_a_copy_is_itself() -> None:
    with pytest.raises(AttributeError):
        TRAIN.epochs = 3  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(TRAIN)) == TRAIN


# ------------------------------------------------------------------------- classes that are refused


def test_an_undecorated_subclass_is_refused() -> None:
    class Wide(CNNConfig):
        extra: float = 1.0

    with pytest.raises(TypeError, match=r"Wide: decorate the class with @cnnjax\.config"):
        Wide()
    assert config(Wide)().extra == 1.0


@pytest.mark.parametrize("default", [[1, 2], {}, np.ones(2)])
def test_a_default_that_could_be_changed_is_refused(default: Any) -> None:
    class Listed(Augmentation):
        sizes: Any = static(default, "sizes")

    class Bare(Augmentation):
        sizes: Any = default

    for cls in (Listed, Bare):
        with pytest.raises(
            TypeError, match=r"\.sizes: .*: a field must be a number \(annotated as float\) or static: a bool,"
        ):
            config(cls)


def test_a_number_is_annotated_as_float() -> None:
    with pytest.raises(TypeError, match=r"Whole\.rate: a number must be annotated as float or float \| None"):

        @config
        class Whole(Loss):
            rate: int = number(1, "a count")


def test_a_class_that_is_no_configuration_is_refused() -> None:
    with pytest.raises(TypeError, match="Plain: must be a subclass of"):

        @config
        class Plain:
            rate: float = 0.1


def test_a_field_without_a_value_is_asked_for() -> None:
    with pytest.raises(TypeError, match="rate"):
        Everything()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="network"):
        TrainConfig()  # type: ignore[call-arg]


# ------------------------------------------------------------------------- checks


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda: np.zeros(3, np.float32), "an array float32[3]"),
        (lambda: jnp.zeros((2, 1)), "an array float32[2, 1]"),
        (lambda: lambda x: x, "<function"),
        (lambda: partial(leaky), "functools.partial(<function leaky"),
        (lambda: {"a": 1}, "{'a': 1}"),
        (lambda: {8}, "{8}"),
        (lambda: np.float32, "<class 'numpy.float32'>"),
        (object, "<object object"),
        (lambda: (1, {}), "{}"),
        (lambda: np.int64(3), "np.int64(3)"),
    ],
)
def test_what_can_be_no_structure_is_refused_by_name(value: Callable[[], Any], message: str) -> None:
    """An array has no hash, a lambda no name, a dictionary can be changed."""
    with pytest.raises(ValueError, match=re.escape(f"activation: {message}")) as error:
        check(SENetConfig(activation=value()))
    assert "must be a number (annotated as float) or static: a bool, int, float, str, tuple, enum, None" in str(
        error.value
    )


def test_a_function_that_a_module_has_by_name_is_taken() -> None:
    for function in (leaky, Shapes.bent, jnp.tanh, jax.nn.relu, jax.nn.gelu):
        check(SENetConfig(activation=function))

    def inner(x: Any) -> Any:
        return x

    with pytest.raises(ValueError, match=r"activation: .*: not a module-level function"):
        check(SENetConfig(activation=inner))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (SGD(learning_rate=float("nan")), "learning_rate: nan: must be finite"),
        (SGD(learning_rate=float("-inf")), "learning_rate: -inf: must be finite"),
        (SGD(learning_rate=-1), "learning_rate: -1.0: must be at least 0"),
        (SGD(learning_rate=1e39), "learning_rate: 1e+39: must be at least 0 and at most 3.4e+38"),
        (SGD(learning_rate=10**400), "must be at least 0 and at most 3.4e+38"),
        (SGD(learning_rate=True), "learning_rate: True: must be a number"),
        (SGD(learning_rate=None), "learning_rate: None: must be a number"),
        (SGD(learning_rate="0.1"), "learning_rate: '0.1': must be a number"),
        (SGD(learning_rate=np.zeros(())), "learning_rate: array(0.): must be a number"),
        (SGD(clip_norm="0.1"), "clip_norm: '0.1': must be a number or None"),
        (SGD(momentum=1), "momentum: 1.0: must be at least 0 and below 1"),
        (SGD(nesterov=1), "nesterov: 1: must be of type bool, such as False"),
        (SGD(schedule=Cosine(warmup=1)), "warmup: 1.0: must be at least 0 and below 1"),
        (Flip(p=1.5), "p: 1.5: must be at least 0 and at most 1"),
        (Focal(gamma=float("inf")), "gamma: inf: must be finite"),
        (Everything(1.0, count=1.0), "count: 1.0: must be of type int, such as 2"),
        (Everything(1.0, count=True), "count: True: must be of type int, such as 2"),
        (Everything(1.0, flag=None), "flag: None: must be of type bool, such as False"),
        (Everything(1.0, norm="layer"), "norm: 'layer': must be of type Norm, such as LAYER"),
        (Everything(1.0, mode="c"), "mode: 'c': use one of a, b"),
        (Everything(1.0, sizes=(1, 2.0)), "sizes: (1, 2.0): must be a tuple of integers, such as 1,2"),
        (Everything(1.0, sizes=(True,)), "sizes: (True,): must be a tuple of integers, such as 1,2"),
        (Everything(1.0, pair=("a",)), "pair: ('a',): must be of type tuple[str, float], such as a,1.0"),
        (Everything(1.0, schedule=None), "schedule: None: must be a Schedule, such as "),
        (Everything(1.0, either=AdamW), "either: the class AdamW: must be an Adam or SGD, such as "),
        (TrainConfig(5), "network: 5: must be a NetworkConfig, such as CNNConfig()"),
        (TrainConfig(CNNConfig), "network: the class CNNConfig: must be a NetworkConfig, such as CNNConfig()"),
        (TrainConfig(SGD()), "must be a NetworkConfig, such as CNNConfig()"),
        (TrainConfig(None), "network: None: must be a NetworkConfig, such as CNNConfig()"),
        (TrainConfig(CNNConfig(), CNNConfig()), "must be an Optimizer, such as SGD()"),
        (TrainConfig(CNNConfig(), augment=Flip()), "must be a tuple of parts, such as (Flip(),)"),
        (TrainConfig(CNNConfig(), augment=(Flip,)), "augment: the class Flip: must be an Augmentation, such as Flip()"),
        (TrainConfig(CNNConfig(), augment=(SGD(),)), "must be an Augmentation, such as Flip()"),
        (TrainConfig(CNNConfig(), augment=(Flip(), Shift(), Flip(0.1))), "augment: flip,shift,flip: duplicate value flip"),
        (TrainConfig(CNNConfig(), augment=(RandomErase(p=2),)), "p: 2.0: must be at least 0 and at most 1"),
        (TrainConfig(CNNConfig(), augment=(RandomErase(inner=(Shift(-1),)),)), "cells: -1.0: must be at least 0"),
        (TrainConfig(CNNConfig(), seed=2**32), "seed: 4294967296: must be at least 0 and below 4294967296"),
        (TrainConfig(CNNConfig(), epochs=2**31), "epochs: 2147483648: must be at least 1 and at most 2147483647"),
        (TrainConfig(CNNConfig(), data=b"digits"), "data: b'digits': a field must be a number"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(value: Config, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        check(value)
    assert "\n" not in str(error.value)


def test_what_is_right_passes() -> None:
    for value in (
        Everything(0.5, limit=1e-9, maybe=Step(), label="x", norm=Norm.GROUP, mode="b", sizes=(), act=leaky),
        Everything(0.5, pair=("a", 1), several=(Flip(), Shift(), RandomErase()), either=AdamW()),
        SENetConfig(norm=Norm.GROUP, other=SENetConfig(other=CNNConfig(padding=3, activation=leaky))),
        TrainConfig(SENetConfig(squeeze=3.4e38), Adam(), Focal(weight=-1), augment=(Flip(0), Shift(0))),
        TrainConfig(CNNConfig(dropout=0), SGD(clip_norm=0), epochs=2**31 - 1, seed=2**32 - 1),
    ):
        check(value)


# ------------------------------------------------------------------------- names


def test_a_class_has_a_word() -> None:
    words = {
        CNNConfig: "cnn",
        LeNet5Config: "lenet5",
        MLPConfig: "mlp",
        ResNetConfig: "resnet",
        SENetConfig: "se-net",
        SGD: "sgd",
        Adam: "adam",
        AdamW: "adamw",
        Lion: "lion",
        RMSprop: "rmsprop",
        Muon: "muon",
        CrossEntropy: "cross-entropy",
        SquaredError: "squared-error",
        Cosine: "cosine",
        Step: "step",
        OneCycle: "one-cycle",
        Constant: "constant",
        Accuracy: "accuracy",
        Flip: "flip",
        RandomErase: "random-erase",
    }
    assert {cls: cls.kind() for cls in words} == words

    @config
    class Nadam(AdamW):
        pass

    assert Nadam.kind() == "nadam"  # a word is not inherited


def test_a_configuration_is_written_as_its_word_and_what_was_changed() -> None:
    assert str(CNNConfig()) == "cnn"
    assert str(SGD(0.3, schedule=Step(warmup=0.1))) == "sgd learning_rate=0.3 schedule=step warmup=0.1"
    assert str(SENetConfig(norm=Norm.GROUP, activation=leaky)) == "se-net activation=leaky norm=GROUP"


DEEP = TrainConfig(CNNConfig(dropout=0.1), augment=(Flip(), RandomErase(p=0.1, inner=(Shift(3.0),))))
PATHS = [option.path for option in options(DEEP)]


def test_every_option_has_a_path() -> None:
    assert ("optimizer", "schedule", "warmup") in PATHS
    assert ("augment", "flip", "p") in PATHS
    assert ("augment", "random-erase", "inner", "shift", "cells") in PATHS
    assert [path for path in PATHS if len(path) == 1] == [(name,) for name in kinds(TrainConfig)]
    assert len(set(PATHS)) == len(PATHS)
    for option in options(DEEP):
        assert has(DEEP, option.path)
        assert option.name == ".".join(option.path)
        assert update(DEEP, option.path, option.value) == DEEP
        if option.kind == "number":
            changed = update(DEEP, option.path, 0.125)
            found = {other.path: other.value for other in options(changed)}
            assert found[option.path] == 0.125
            assert changed != DEEP
    assert not has(DEEP, ("augment", "shift", "cells"))
    assert not has(DEEP, ("optimizer", "b1"))
    assert not has(DEEP, ("epochs", "x"))


def test_a_name_is_the_end_of_one_path() -> None:
    for name, path in {
        "warmup": ("optimizer", "schedule", "warmup"),
        "learning-rate": ("optimizer", "learning_rate"),
        "learning_rate": ("optimizer", "learning_rate"),
        "optimizer.learning-rate": ("optimizer", "learning_rate"),
        "schedule.warmup": ("optimizer", "schedule", "warmup"),
        "flip.p": ("augment", "flip", "p"),
        "random-erase.p": ("augment", "random-erase", "p"),
        "augment.random_erase.p": ("augment", "random-erase", "p"),
        "cells": ("augment", "random-erase", "inner", "shift", "cells"),
        "augment": ("augment",),
    }.items():
        assert resolve(name, PATHS) == path
    with pytest.raises(ValueError, match=r"^p: ambiguous: use augment\.flip\.p or augment\.random-erase\.p$"):
        resolve("p", PATHS)
    with pytest.raises(
        ValueError, match=r"^learning_rates: no such option: did you mean 'learning_rate'\? use one of .*warmup"
    ):
        resolve("learning_rates", PATHS)
    with pytest.raises(ValueError, match=r"^rate: no such option"):
        resolve("rate", PATHS)  # not the end of a word
    names = flat_names(PATHS)
    assert names["learning_rate"] == ("optimizer", "learning_rate")
    assert names["augment.flip.p"] == ("augment", "flip", "p")
    assert "p" not in names
    assert sorted(names.values()) == sorted(PATHS)
    assert all(resolve(name, PATHS) == path for name, path in names.items())


def test_a_whole_path_goes_before_the_end_of_another() -> None:
    paths = [("data",), ("network", "data")]
    assert resolve("data", paths) == ("data",)
    assert resolve("network.data", paths) == ("network", "data")


def test_parts_are_replaced_before_their_fields() -> None:
    for values in (
        {"b1": 0.5, "optimizer": AdamW(), "warmup": 0.25, "schedule": Step()},
        {"schedule": Step(), "warmup": 0.25, "optimizer": AdamW(), "b1": 0.5},
    ):
        assert with_values(TRAIN, values).optimizer == AdamW(b1=0.5, schedule=Step(warmup=0.25))
    found = with_values(TRAIN, {"cells": 3, "augment": (Shift(),), "network": MLPConfig(), "hidden": [5]})
    assert (found.augment, found.network) == ((Shift(3.0),), MLPConfig(hidden=(5,)))
    assert with_values(TRAIN, {}) == TRAIN
    assert with_values(DEEP, {"flip.p": 0.25}).augment[0] == Flip(0.25)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"b1": 0.5}, "b1: no such option"),
        ({"b1": 0.5, "optimizer": SGD()}, "b1: no such option"),
        ({"hidden": (3,), "optimizer": Adam()}, "hidden: no such option"),
        ({"momentum": 0.5, "optimizer": Adam()}, "momentum: no such option"),
        ({"momentum": 2}, "momentum: 2.0: must be at least 0 and below 1"),
        ({"optimizer": 3}, "optimizer: 3: must be an Optimizer"),
        ({"optimizer": Adam(b1=1)}, "b1: 1.0: must be at least 0 and below 1"),
        ({"weight_decays": 0.1}, "did you mean 'weight_decay'?"),
    ],
)
def test_what_cannot_be_replaced_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        with_values(TRAIN, values)


def test_words() -> None:
    assert choose("head", "flatten", {"flatten": 1}) == 1
    with pytest.raises(ValueError, match=r"head: 'flaten': did you mean 'flatten'\? use one of flatten, global"):
        choose("head", "flaten", {"flatten": 1, "global": 2})
    assert suggest("xyz", ["flatten"]) == ""
    assert from_json(b'{"a": [1]}') == {"a": [1]}
    for content in (b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(ValueError, match=r"."):
            from_json(content)
    assert [*functions(TrainConfig(SENetConfig(activation=leaky, other=CNNConfig(activation=jnp.tanh))))] == [
        leaky,
        jnp.tanh,
    ]


# ------------------------------------------------------------------------- written and read


class Draws:
    """Configurations at random, of every part that there is."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def number(self, low: float = 0.0, high: float = 0.99) -> float:
        share = self.random.choice([0.0, 1e-7, 0.1 + 0.2, self.random.random(), self.random.random()])
        return low + (high - low) * share

    def maybe(self, value: Any) -> Any:
        return self.random.choice([None, value])

    def counts(self, least: int = 0) -> tuple[int, ...]:
        return tuple(self.random.randint(1, 300) for _ in range(self.random.randint(least, 4)))

    def activation(self) -> Any:
        return self.random.choice(["relu", "tanh", "gelu", leaky, Shapes.bent])

    def schedule(self) -> Schedule:
        return self.random.choice([
            *(kind(self.number()) for kind in (Constant, Cosine)),
            Linear(self.number(), self.number()),
            OneCycle(*(self.number() for _ in range(5))),
            Step(*(self.number() for _ in range(4))),
        ])  # fmt: skip

    def optimizer(self) -> Optimizer:
        rest = {"schedule": self.schedule(), "clip_norm": self.maybe(self.number(0, 9))}
        adam = {"learning_rate": self.number(0, 3), "b1": self.number(), "b2": self.number(), "eps": 1e-8, **rest}
        return self.random.choice([
            SGD(self.number(0, 3), self.number(), self.number(), nesterov=self.random.random() < 0.5, **rest),
            Adam(**adam),
            AdamW(**adam, weight_decay=self.number()),
            Lion(self.number(0, 3), self.number(), weight_decay=self.number(), **rest),
            RMSprop(self.number(0, 3), self.number(), self.number(), **rest),
            Muon(self.number(0, 3), self.number(), iterations=self.random.randint(1, 9), **rest),
        ])  # fmt: skip

    def network(self, depth: int = 0) -> NetworkConfig:
        cnn = {
            "padding": self.random.choice(["SAME", "VALID", 0, 3]),
            "batch_norm": self.random.random() < 0.5,
            "dropout": self.maybe(self.number()),
            "head": self.random.choice(["flatten", "global"]),
            "dense": self.counts(),
        }
        own = {
            "kernels": tuple((self.random.randint(1, 9), 3) for _ in range(self.random.randint(0, 3))),
            "norm": self.random.choice([None, *Norm]),
            "other": None if depth > 2 else self.maybe(self.random.choice([CNNConfig(), MLPConfig()])),
        }
        if depth < 2 and self.random.random() < 0.3:
            own["other"] = self.network(depth + 1)
        return self.random.choice([
            CNNConfig(self.counts(1), activation=self.activation(), **cnn),
            MLPConfig(self.counts(), self.activation(), self.maybe(self.number())),
            LeNet5Config((3, 4), self.activation(), "average", self.random.randint(0, 5)),
            ResNetConfig(tuple(sorted(self.counts(1))), self.random.randint(1, 5)),
            SENetConfig(self.number(0, 9), self.activation(), **own),
        ])  # fmt: skip

    def augment(self, depth: int = 0) -> tuple[Augmentation, ...]:
        inner = self.augment(1) if depth == 0 else ()
        every = [Flip(self.number()), Shift(self.number(0, 5)), RandomErase(self.number(), Norm.GROUP, inner)]
        return tuple(self.random.sample(every, self.random.randint(0, 3)))

    def loss(self) -> Loss:
        return self.random.choice(
            [CrossEntropy(self.number()), SquaredError(self.number()), Focal(self.number(), self.maybe(self.number()))]
        )

    def train(self) -> TrainConfig:
        rest = {
            "augment": self.augment(),
            "data": self.random.choice(["digits", "mnist:3.0.1", 'ünï \u2028 \\ "x"']),
            "batch_size": self.random.randint(1, 999),
            "epochs": self.random.randint(1, 2**31 - 1),
            "ema": self.maybe(self.number()),
            "patience": self.maybe(self.random.randint(1, 99)),
            "seed": self.random.choice([0, 2**32 - 1]),
        }
        return TrainConfig(self.network(), self.optimizer(), self.loss(), **rest)

    def sweep(self) -> SweepConfig:
        learning_rate: Any = Range(1e-4, 1.0, log=True) if self.random.random() < 0.5 else (0.1, 0.3 - 0.2)
        axes = [
            ("learning_rate", learning_rate),
            ("batch_size", Range(8, 64) if self.random.random() < 0.3 else (16, 32)),
            ("augment", ((), (Flip(self.number()), Shift()))),
            ("loss", (CrossEntropy(), Focal(weight=0.5))),
            ("optimizer.clip_norm", (None, 0.5)),
            ("network", (CNNConfig(activation=leaky), SENetConfig(norm=Norm.GROUP), MLPConfig())),
            ("network.filters", ((8,), (8, 16))),
        ]
        chosen = [axis for axis in axes[:6] if self.random.random() < 0.6]
        chosen += axes[6:] if "network" in dict(chosen) else []
        listed = [name for name, values in chosen if isinstance(values, tuple) and len(values) == 2]
        zipped = (tuple(listed[:2]),) if len(listed) > 1 and self.random.random() < 0.5 else ()
        return SweepConfig(self.train(), tuple(chosen), self.random.randint(1, 9), zipped, points=5, factor=4)


def written(value: Any) -> Any:
    return json.loads(json.dumps(describe(value)))


@pytest.mark.parametrize("seed", range(8))
def test_what_was_written_is_read_with_the_same_structure(seed: int) -> None:
    """Equal, a lane of the same program, and written again the same, to the character."""
    draws, seen = Draws(seed), set()
    for i in range(80):
        value = draws.train()
        check(value)
        read = configuration(written(value), OWN)
        assert read == value
        assert type(read) is TrainConfig
        assert jax.tree.structure(read) == jax.tree.structure(value)
        assert jax.tree.leaves(read) == jax.tree.leaves(value)
        assert json.dumps(describe(read)) == json.dumps(describe(value))
        assert not foreign(value) or set(foreign(value)) <= set(OWN)
        if i < 20:
            sweep = draws.sweep()
            assert configuration(written(sweep), OWN) == sweep
        seen |= {type(value.network), type(value.optimizer), type(value.loss), type(value.optimizer.schedule)}
    assert len(seen) == 5 + 6 + 3 + 5


def test_an_own_class_that_is_not_given_is_named() -> None:
    for value, name in (
        (TrainConfig(SENetConfig()), "SENetConfig"),
        (TrainConfig(CNNConfig(), loss=Focal()), "Focal"),
        (TrainConfig(CNNConfig(), augment=(Flip(), RandomErase())), "RandomErase"),
        (TrainConfig(CNNConfig(activation=leaky)), "leaky"),
        (TrainConfig(CNNConfig(activation=Shapes.bent)), "bent"),
        (SweepConfig(TRAIN, (("loss", (CrossEntropy(), Focal())),)), "Focal"),
    ):
        described = written(value)
        for classes in ([], [cls for cls in OWN if cls.__name__ != name]):
            with pytest.raises(UnknownClassError, match=rf"{name}: not a part of cnnjax.*: .*classes=\[{name}\]"):
                configuration(described, classes)
        assert configuration(described, OWN) == value
    assert foreign(TRAIN) == []

    @config
    class Local(NetworkConfig):
        pass

    value = TrainConfig(Local())
    assert configuration(written(value), [Local]) == value
    described = written(TrainConfig(CNNConfig(), loss=Focal()))
    described["loss"]["strength"] = 2.0
    with pytest.raises(UnknownClassError, match=r"^Focal has no field 'strength': give the class"):
        configuration(described, OWN)
    assert foreign(TrainConfig(SENetConfig(norm=Norm.GROUP, activation=leaky), loss=Focal())) == [
        SENetConfig,
        leaky,
        Norm,
        Focal,
    ]


def test_a_class_of_a_name_that_cnnjax_has_stays_its_own() -> None:
    """It is not taken for the other, neither way."""
    name = "SGD"
    own = config(
        type(
            name,
            (Optimizer,),
            {"__annotations__": {"learning_rate": float}, "learning_rate": 0.5, "__module__": __name__},
        )
    )
    value = TrainConfig(CNNConfig(), own())
    described = written(value)
    assert described["optimizer"]["class"] == f"{__name__}.SGD"
    with pytest.raises(UnknownClassError):
        configuration(described)
    assert type(configuration(described, [own]).optimizer) is own
    assert type(configuration(written(TRAIN), [own]).optimizer) is SGD


def test_of_classes_with_one_name_the_one_of_its_module_is_taken() -> None:
    def made(module: str) -> Any:
        return config(type("Net", (NetworkConfig,), {"__module__": module, "__qualname__": "Net"}))

    one, other = made("sys"), made("json")
    for cls in (one, other):
        for classes in ([one, other], [other, one], [cls]):
            assert type(configuration(written(TrainConfig(cls())), classes).network) is cls
    moved = made("os")  # as a preset that is loaded under another name
    assert type(configuration(written(TrainConfig(one())), [moved]).network) is moved


# ------------------------------------------------------------------------- hostile descriptions

NAMES = [
    "os.system",
    "os:system",
    "/tmp/x.py",
    "subprocess.Popen",
    "cnnjax.runs.environment.subprocess",
    "cnnjax.__class__",
    "cnnjax.load",
    "cnnjax.sweep",
    "cnnjax.config",
    "cnnjax.TrainConfig.__init__",
    "cnnjax.options.Config",
    "cnnjax.Config",
    "cnnjax.",
    ".CNNConfig",
    "CNNConfig",
    "builtins.eval",
    "antigravity.geohash",
    "this.s",
    "leaky.__globals__",
    "x.leaky.__globals__",
    "x.trap.__call__",
    "",
    "..",
    "\x00",
    "x" * 10_000,
]
VALUES: list[Any] = [
    *NAMES,
    None,
    3,
    1.5,
    True,
    [],
    ["os", "system"],
    {},
    {"class": "os.system"},
    {"enum": "os.system"},
]


@pytest.fixture
def nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """No module is imported, no file made, no process started, no function of `OWN` run."""
    monkeypatch.chdir(tmp_path)
    events: list[str] = []
    watching = [True]

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if watching[0] and event in (
            "import",
            "exec",
            "subprocess.Popen",
            "os.system",
            "open",
            "os.mkdir",
            "socket.connect",
        ):
            events.append(f"{event} {arguments!r:.100}")

    before = set(sys.modules)
    sys.addaudithook(audit)
    yield
    watching[0] = False
    assert not events
    assert not CALLS
    assert set(sys.modules) == before
    assert not [*tmp_path.iterdir()]


def test_no_name_in_a_description_is_run_or_imported(nothing_happens: None) -> None:
    places: list[Callable[[dict[str, Any], Any], Any]] = [
        lambda whole, bad: bad,
        lambda whole, bad: {**whole, "network": bad},
        lambda whole, bad: {**whole, "augment": [bad]},
        lambda whole, bad: {**whole, "augment": [{"class": "cnnjax.Flip", "p": bad}]},
        lambda whole, bad: {**whole, "network": {**whole["network"], "activation": bad}},
        lambda whole, bad: {**whole, "network": {**whole["network"], "filters": [8, bad]}},
        lambda whole, bad: {**whole, "optimizer": {**whole["optimizer"], "schedule": bad}},
        lambda whole, bad: {**whole, "metric": [bad]},
        lambda whole, bad: {"base": whole, "axes": {"optimizer": [bad]}, "zipped": []},
        lambda whole, bad: {"base": whole, "axes": {"activation": ["relu", bad]}, "zipped": []},
        lambda whole, bad: {"base": bad, "axes": {}, "zipped": []},
    ]
    whole = describe(TRAIN)
    for name in VALUES:
        for bad in (
            {"class": name},
            {"class": name, "args": ["touch x"], "command": "touch x"},
            {"function": name},
            {"enum": name, "name": "LAYER"},
            {"enum": name, "name": "__class__"},
        ):
            for classes in ([], OWN):
                for place in places:
                    with pytest.raises(ValueError, match=r"."):
                        configuration(place(whole, bad), classes)


@pytest.mark.parametrize(
    "bad",
    [
        {"class": "cnnjax.CNNConfig", "filter": [8]},
        {"class": "cnnjax.CNNConfig", "__class__": 1},
        {"class": "cnnjax.CNNConfig", "__post_init__": 1},
        {"class": "cnnjax.CNNConfig", "filters": {"class": "cnnjax.CNNConfig"}},
        {"class": "cnnjax.CNNConfig", "activation": {"function": "tests.leaky.__globals__"}},
        {"class": "cnnjax.CNNConfig", "activation": {"enum": "x.Norm", "name": "mro"}},
        {"class": "cnnjax.CNNConfig", "activation": {"function": "x.Norm"}},
        {"class": "cnnjax.CNNConfig", "activation": {"function": "x.Focal"}},
        {"class": "cnnjax.CNNConfig", "activation": {"function": "cnnjax.CNNConfig"}},
        {"class": "cnnjax.CNNConfig", "activation": {"enum": "cnnjax.CNNConfig", "name": "kind"}},
        {"class": "cnnjax.CNNConfig", "activation": {"enum": "x.leaky", "name": "__globals__"}},
        {"class": "x.leaky", "x": 1},
        {"class": "x.trap"},
        {"class": "x.trap", "network": {"class": "x.trap"}},
        {"enum": "x.trap", "name": "x"},
        {"class": "x.Norm", "value": "layer"},
        {"class": "x.bent", "x": 1},
        {"class": "cnnjax.SGD"},
        {"class": "cnnjax.TrainConfig", "network": {"class": "cnnjax.CNNConfig"}},
        {"class": "cnnjax.NetworkConfig", "rngs": 1},
        {"network": {"class": "cnnjax.CNNConfig"}},
        {"class": "cnnjax.CNNConfig", "filters": [[[[8]]]]},
        {"class": "cnnjax.CNNConfig", "kernel": 10**400},
        {"class": "cnnjax.CNNConfig", "dropout": "none"},
        {"class": "cnnjax.CNNConfig", "dropout": True},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_fields_are_refused(bad: Any, nothing_happens: None) -> None:
    described = {**describe(TRAIN), "network": bad}
    with pytest.raises(ValueError, match=r"."):
        configuration(described, OWN)


def test_a_deep_description_is_refused() -> None:
    described: Any = {"class": "cnnjax.Flip"}
    for _ in range(100_000):
        described = [described]
    with pytest.raises((ValueError, RecursionError)):
        configuration({**describe(TRAIN), "augment": described})
