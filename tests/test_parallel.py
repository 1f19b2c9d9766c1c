"""How threads are run: what is set for them stays within the process, and what the user set stays."""

import os
import subprocess
import sys

import pytest

SHOWN = """
import os, sys
import lungvq._parallel
print(os.environ.get("OMP_WAIT_POLICY"), "numba.np.ufunc.omppool" in sys.modules)
"""


@pytest.mark.parametrize(
    ("given", "policy", "loaded"),
    [
        ({}, "None", True),
        ({"OMP_WAIT_POLICY": "active"}, "active", False),
        ({"GOMP_SPINCOUNT": "9"}, "None", False),
    ],
)
def test_how_threads_wait_is_set_once_and_left_to_the_user(given, policy, loaded):
    pytest.importorskip(
        "numba.np.ufunc.omppool", reason="numba runs its threads without OpenMP here", exc_type=ImportError
    )
    environment = {
        k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    } | given
    done = subprocess.run(
        [sys.executable, "-c", SHOWN], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [policy, str(loaded)]
