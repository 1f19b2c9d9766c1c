"""How loops are compiled to run on all cores."""

from __future__ import annotations

import os
from importlib import import_module
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


def _sleep_while_waiting() -> None:
    """Have threads without work sleep, where GNU's OpenMP, on which numba runs them, has them spin for milliseconds.

    Loops here are short, and numpy works alone between them: threads that spin keep a core from it, and from every
    other process. That is read when the library is loaded, so it is loaded here; what the user has set stays.
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        return
    os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        import_module("numba.np.ufunc.omppool")
    except ImportError:
        pass  # numba runs them on something else here
    finally:
        del os.environ["OMP_WAIT_POLICY"]


_sleep_while_waiting()
