"""The environment of a run: versions, device, settings and source."""

import hashlib
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from cnnjax.devices import switches
from cnnjax.runs.records import differences

PACKAGES = ("cnnjax", "jax", "jaxlib", "flax", "optax", "numpy")
PROPOSING = (
    "optuna",
    "scipy",
    "torch",
    "cmaes",
)  # the points of Optuna samplers depend on these, if installed
_SHOWING = ("look", "pictures", "tensorboard", "reports", "commands")  # these do not affect results


FIXED = ("packages", "device", "switches", "source", "preset")
"""Entries of an environment that must not change when a run is resumed; its plan determines the devices."""


def environment() -> dict[str, Any]:
    """Returns versions, devices, JAX's settings, and the git commit of the checkout (None outside a checkout)."""
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in (*PACKAGES, *PROPOSING) if (version := _version(name))},
        "platform": platform.platform(),
        "device": f"{device.platform}: {device.device_kind}",
        "devices": jax.device_count(),
        "switches": switches(),
        "source": _source(),
        "commit": _commit(),
    }


def changes(there: Mapping[str, Any], here: Mapping[str, Any], names: Iterable[str] = FIXED) -> Iterator[str]:
    """Yields the differences between entries of two environments.

    Presets are compared by their contents, not their paths, and only if both environments have one.
    """
    names = [name for name in names if name != "preset" or ("preset" in there and "preset" in here)]
    old, new = ({name: _contents(facts.get(name)) for name in names} for facts in (there, here))
    yield from differences(old, new)


def _contents(fact: Any) -> Any:
    return fact["sha256"] if isinstance(fact, Mapping) and "sha256" in fact else fact


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _source() -> str:
    """Returns a digest of the source that affects results, since the version may not change with it."""
    package, contents = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        if name.parts[0].removesuffix(".py") not in _SHOWING:
            contents.update(name.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return contents.hexdigest()


def _commit() -> str | None:
    checkout = Path(__file__).parents[2]
    if not (checkout / "pyproject.toml").is_file():  # a wheel, perhaps inside of another checkout
        return None
    try:
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
