"""ConvNeXt: depthwise convolutions between 1x1 ones."""

from collections.abc import Sequence

from flax import nnx
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from cnnjax.networks.base import NetworkConfig
from cnnjax.networks.layers import Maps, positive
from cnnjax.networks.normalization import DropPath
from cnnjax.options import config, number, static, text


class ConvNeXtBlock(nnx.Module):
    """A depthwise 7x7 convolution, LayerNorm, and two dense layers over channels, added to the input.

    The first dense layer has four times the channels. The result is scaled by a trained factor for each
    channel, which starts at 1e-6.
    """

    def __init__(self, maps: Maps, kernel: int, drop_path: float | None, *, rngs: nnx.Rngs):
        channels = maps.channels
        self.depthwise = maps.convolution(channels, kernel, padding="SAME", groups=channels, rngs=rngs)
        self.norm = nnx.LayerNorm(channels, epsilon=1e-6, rngs=rngs)
        self.expand = nnx.Linear(channels, 4 * channels, rngs=rngs)
        self.project = nnx.Linear(4 * channels, channels, rngs=rngs)
        self.scale = nnx.Param(jnp.full(channels, 1e-6))
        self.drop_path = None if drop_path is None else DropPath(drop_path, rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w channels"]:
        x = self.norm(self.depthwise(inputs))
        x = self.project(nnx.gelu(self.expand(x), approximate=False)) * self.scale[...]
        return inputs + (x if self.drop_path is None else self.drop_path(x))


class ConvNeXt(nnx.Module):
    """A ConvNeXt: stages of depthwise blocks, joined by convolutions that halve the maps.

    The network follows Liu et al. 2022 ("A ConvNet for the 2020s"). ConvNeXt-T (`filters=(96, 192, 384,
    768), blocks=(3, 3, 9, 3), patch=4`) has 28,589,128 parameters for 3 channels and 1,000 classes. The
    defaults are a small one for small images. It takes inputs of any size from `patch` times 2 for each
    further stage.

    Args:
      input_shape: the shape [height, width, channels] of one input.
      classes: the number of logits.
      filters: the number of channels of each stage.
      blocks: the number of blocks of each stage.
      patch: the kernel size and the stride of the first convolution.
      kernel: the size of the depthwise kernels.
      drop_path: the fraction of examples for which training leaves a block out; None for none.
      rngs: the random streams for initial values and noise.

    Raises:
      ValueError: if the input is too small, or an argument is out of range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        filters: Sequence[int] = (32, 64, 128),
        blocks: Sequence[int] = (2, 2, 2),
        patch: int = 2,
        kernel: int = 7,
        drop_path: float | None = None,
        rngs: nnx.Rngs,
    ):
        if len(positive("filters", filters)) != len(positive("blocks", blocks)) or not filters:
            raise ValueError(f"blocks: {text(tuple(blocks))}: give one number for each of {len(filters)} stages")
        maps = Maps(input_shape)
        self.joints: nnx.List[nnx.Conv] = nnx.List()
        self.norms: nnx.List[nnx.LayerNorm] = nnx.List()
        self.stages: nnx.List[nnx.List[ConvNeXtBlock]] = nnx.List()
        for stage, (width, count) in enumerate(zip(filters, blocks, strict=True)):
            size, before = (2, maps.channels) if stage else (patch, width)
            self.joints.append(maps.convolution(width, size, stride=size, rngs=rngs))
            self.norms.append(nnx.LayerNorm(before, epsilon=1e-6, rngs=rngs))
            self.stages.append(nnx.List([ConvNeXtBlock(maps, kernel, drop_path, rngs=rngs) for _ in range(count)]))
        self.norm = nnx.LayerNorm(maps.channels, epsilon=1e-6, rngs=rngs)
        self.head = nnx.Linear(maps.channels, classes, rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = inputs
        for i, (joint, norm, blocks) in enumerate(zip(self.joints, self.norms, self.stages, strict=True)):
            x = joint(norm(x)) if i else norm(joint(x))
            for block in blocks:
                x = block(x)
        return self.head(self.norm(x.mean((1, 2))))


@config
class ConvNeXtConfig(NetworkConfig):
    """The configuration of a `ConvNeXt`."""

    word = "convnext"
    module = ConvNeXt
    filters: tuple[int, ...] = static((32, 64, 128), "number of channels of each stage")
    blocks: tuple[int, ...] = static((2, 2, 2), "number of blocks of each stage")
    patch: int = static(2, "kernel size and stride of the first convolution", least=1)
    kernel: int = static(7, "size of the depthwise kernels", least=1)
    drop_path: float | None = number(None, "fraction of examples for which a block is left out", least=0, below=1)

    @property
    def per_example(self) -> bool:
        """True without `drop_path`."""
        return self.drop_path is None
