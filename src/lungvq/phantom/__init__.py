"""A digital chest with known ventilation, perfusion and motion."""

from lungvq.phantom.cases import CASES, CaseSettings
from lungvq.phantom.files import write_phantom
from lungvq.phantom.make import Phantom, Truth, make_phantom

__all__ = ["CASES", "CaseSettings", "Phantom", "Truth", "make_phantom", "write_phantom"]
