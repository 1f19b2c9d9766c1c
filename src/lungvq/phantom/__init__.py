"""A digital chest with known ventilation, perfusion and motion."""

from lungvq.phantom.cases import CASES, Breath, CaseSettings, Disease, Emboli, Physiology
from lungvq.phantom.files import write_phantom
from lungvq.phantom.make import Phantom, Truth, make_phantom, rescan
from lungvq.phantom.scanner import Scanner

__all__ = [
    "CASES",
    "Breath",
    "CaseSettings",
    "Disease",
    "Emboli",
    "Phantom",
    "Physiology",
    "Scanner",
    "Truth",
    "make_phantom",
    "rescan",
    "write_phantom",
]
