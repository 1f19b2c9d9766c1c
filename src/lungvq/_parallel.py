"""How loops are compiled to run on all cores."""

from __future__ import annotations

from typing import Any

__all__ = ["PRANGE"]

PRANGE: Any = {  # numba takes a dict here, its type hints know a bool alone
    "prange": True,
    "comprehension": False,
    "fusion": False,
    "inplace_binop": False,
    "numpy": False,
    "reduction": False,
    "setitem": False,
    "stencil": False,
}
"""For ``numba.njit(parallel=PRANGE)``: only loops over ``numba.prange`` are shared among threads.

With ``parallel=True`` each array that is set to zero becomes a loop of threads of its own, which takes longer to
compile than what it is part of, on every user's first run.
"""
