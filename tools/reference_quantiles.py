"""Cut-points of healthy lungs for the defect rule ``ref_quantile``: pooled over phantoms, printed as a table.

    python tools/reference_quantiles.py --seeds 101 102 103 --spacing 3

Each phantom counts the same, whatever its size. Phantoms are drawn, not people: see docs/phantom.md for how far
their unevenness can be trusted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from lungvq import io
from lungvq.breath import prepare
from lungvq.match import alike
from lungvq.phantom import make_phantom
from lungvq.pipeline import Options, estimate
from lungvq.register import register

QUANTILES = (0.0228, 0.1587, 0.5, 0.8413, 0.9772)
_DRAWN = 100_000  # voxels of each phantom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--spacing", type=float, default=3.0)
    arguments = parser.parse_args()
    pooled: dict[str, list[np.ndarray]] = {"ventilation": [], "perfusion": []}
    for seed in arguments.seeds:
        phantom = make_phantom("healthy", seed=seed, spacing=arguments.spacing)
        insp, exp = (
            prepare(io.Scan(volume, Path("phantom"), "phantom", (), {}), role)
            for role, volume in (("inspiration", phantom.insp), ("expiration", phantom.exp))
        )
        insp, exp, _ = alike(insp, exp)
        registration = register(exp.ct, insp.ct, exp.anatomy.lungs, insp.anatomy.lungs)
        maps = estimate(insp, exp, registration, Options()).maps
        for name, values in pooled.items():
            map_ = maps[name].array[np.isfinite(maps[name].array)]
            drawn = np.random.default_rng(seed).choice(map_, _DRAWN)
            values.append(drawn / map_.mean(dtype=np.float64))
            own = " ".join(f"{q:.4f}" for q in np.quantile(values[-1], QUANTILES))
            print(f"seed {seed}  {name:12} {own}", flush=True)
    for name, values in pooled.items():
        print(
            f"pooled      {name:12} "
            + " ".join(f"{q:.4f}" for q in np.quantile(np.concatenate(values), QUANTILES))
        )


if __name__ == "__main__":
    main()
