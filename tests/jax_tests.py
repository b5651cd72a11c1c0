"""JAX's own convolution tests, with `cnnjax.conv_general_dilated` in place of `jax.lax.conv_general_dilated`.

python tests/jax_tests.py JAX_SOURCE [--flax FLAX_SOURCE] [pytest's options]

JAX_SOURCE is a checkout of JAX at the tag of the installed version, as jax-v0.10.2, and FLAX_SOURCE one of
Flax. Runs the tests of `lax_test`, `lax_autodiff_test` and `lax_vmap_test` whose names speak of convolution,
and all of Flax's `nnx/nn/conv_test`. `-k ""` runs all tests of these files. pytest does not collect this file.
"""

import argparse
import functools
import sys
import types
from pathlib import Path

import jax
import pytest
from jax import lax

from cnnjax.operations import conv_general_dilated, convolution, forms

FILES = ("lax_test.py", "lax_autodiff_test.py", "lax_vmap_test.py")


def put_in_place() -> list[int]:
    """Replaces the function wherever JAX and Flax call it, but not for the drop-in; counts its calls."""
    stock = types.ModuleType("lax")
    stock.__dict__.update(vars(lax))
    for module in (convolution, forms):
        module.lax = stock  # type: ignore[attr-defined]
    calls = [0]

    @functools.wraps(conv_general_dilated)
    def counted(*args: object, **kwargs: object) -> jax.Array:
        calls[0] += 1
        return conv_general_dilated(*args, **kwargs)  # type: ignore[arg-type]

    for module in list(sys.modules.values()):
        if getattr(module, "conv_general_dilated", None) is stock.conv_general_dilated and module is not stock:
            module.conv_general_dilated = counted  # type: ignore[attr-defined]
    return calls


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jax", type=Path)
    parser.add_argument("--flax", type=Path)
    known, options = parser.parse_known_args()
    files = [known.jax / "tests" / name for name in FILES]
    if known.flax:
        files.append(known.flax / "tests" / "nnx" / "nn" / "conv_test.py")
    if missing := [str(file) for file in files if not file.is_file()]:
        parser.error(f"no file {missing[0]}: give the root of a checkout of the source")
    calls = put_in_place()
    chosen = ["-k", "conv and not convert"]
    result = pytest.main([*map(str, files), "-p", "no:cacheprovider", "-o", "addopts=", *chosen, *options])
    print(f"jax {jax.__version__}: {calls[0]} calls of the drop-in")
    return int(result) or not calls[0]


if __name__ == "__main__":
    sys.exit(main())
