"""What a run depends on besides its configuration: versions, device, source."""

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
)  # where they are installed: on these an Optuna sampler's points depend
_SHOWING = ("pictures", "tensorboard", "commands")  # rooms that change no number


FIXED = ("packages", "device", "switches", "source", "preset")
"""Entries of an environment that must not change while a run lasts: its plan says how many devices it needs."""


def environment() -> dict[str, Any]:
    """Versions, device, and the checkout's git commit (None outside a checkout)."""
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
    """What differs between the entries of two environments: of a preset its contents, not its path.

    A preset is compared where both have one: in Python a configuration comes without.
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
    """A digest of the source that decides what is trained, which tells versions apart that have one number."""
    package, contents = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        if name.parts[0].removesuffix(".py") not in _SHOWING:
            contents.update(name.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return contents.hexdigest()


def _commit() -> str | None:
    checkout = Path(__file__).parents[2]
    if not (checkout / "pyproject.toml").is_file():  # a wheel, perhaps within somebody else's checkout
        return None
    try:
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
