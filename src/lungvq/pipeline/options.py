"""What may be chosen about a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from lungvq.perfusion import PerfusionOptions
from lungvq.register import RegisterOptions
from lungvq.ventilation import VentilationOptions

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """Parameters of a run; every one of them is recorded in ``run.json``."""

    registration: RegisterOptions = field(default_factory=RegisterOptions)
    ventilation: VentilationOptions = field(default_factory=VentilationOptions)
    perfusion: PerfusionOptions = field(default_factory=PerfusionOptions)
    allow_no_breathing: bool = False
    estimators: tuple[str, ...] = ()
    detrended: bool = False
    relative: bool = False
