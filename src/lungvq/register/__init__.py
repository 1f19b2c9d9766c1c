"""Expiration to inspiration: where each point of the lung went, and how much it expanded.

Each lung is registered on its own, so that it may slide along the chest wall and the other lung:
extents first (`initialise`), then an exhaustive search on self-similarity codes (`descriptors`, `discrete`),
then local correlation and the pleura (`refine`). `quality` says how well it went.
"""

from lungvq.register.engine import RegisterOptions, Registration, register, warp_labels
from lungvq.register.quality import MISMATCH_CORRELATION, LungQuality, RegistrationQuality

__all__ = [
    "MISMATCH_CORRELATION",
    "LungQuality",
    "RegisterOptions",
    "Registration",
    "RegistrationQuality",
    "register",
    "warp_labels",
]
