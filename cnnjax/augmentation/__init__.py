"""Augmentations: random transformations of training batches, which run on the device inside of the step."""

from cnnjax.augmentation.base import Augmentation as Augmentation
from cnnjax.augmentation.base import kind_of as kind_of
from cnnjax.augmentation.images import Affine as Affine
from cnnjax.augmentation.images import AlternatingFlip as AlternatingFlip
from cnnjax.augmentation.images import ColorJitter as ColorJitter
from cnnjax.augmentation.images import Cutout as Cutout
from cnnjax.augmentation.images import Flip as Flip
from cnnjax.augmentation.images import Shift as Shift
from cnnjax.augmentation.mixing import CutMix as CutMix
from cnnjax.augmentation.mixing import Mixup as Mixup
from cnnjax.augmentation.series import Jitter as Jitter
from cnnjax.augmentation.series import Scaling as Scaling
from cnnjax.augmentation.series import WindowSlice as WindowSlice
from cnnjax.augmentation.text import TokenDropout as TokenDropout
