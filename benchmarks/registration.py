"""lungvq's registration beside peers, on pairs whose motion is known.

    python benchmarks/registration.py --cache FOLDER                      # everything: hours
    python benchmarks/registration.py --cache FOLDER --pairs 2 --methods lungvq --spacing 3     # a minute

Each registration runs in a process of its own. Finished ones are kept in the cache, so that a stopped run goes
on where it was; one whose code has changed since is done again. Times mean something on an idle machine only.
The peers come with ``pip install 'lungvq[bench]'``; the real pair needs LUNGVQ_TEST_DATA.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import lungvq
from lungvq import io
from lungvq.bench import registration as bench
from lungvq.bench.table import made_with
from lungvq.segment import segment
from lungvq.volume import CANONICAL

REAL = "real 4D-CT"
KNOWN = "real CT, known motion"


def main() -> None:
    """Parse the command line, run what is missing, print the tables."""
    options = parsed()
    if options.one:
        one(options)
        return
    wanted = options.methods.split(",") if options.methods else list(bench.METHODS)
    if unknown := [name for name in wanted if name not in bench.METHODS]:
        sys.exit(f"no method {', '.join(unknown)}; expected of {', '.join(bench.METHODS)}")
    specs = bench.plan(options.plan)
    if options.only:
        specs = [spec for spec in specs if spec.name in options.only.split(",")]
    specs = specs[: options.pairs]
    for folder in ("pairs", "rows"):
        (options.cache / folder).mkdir(parents=True, exist_ok=True)
    rows = []
    for spec in specs:
        path = options.cache / "pairs" / f"{spec.name}-{spec.seed}-{options.spacing:g}mm.npz"
        if not path.exists():
            tell(f"making {spec.name}")
            bench.save_pair(bench.make_pair(spec, options.spacing), path)
        methods = [m for m in wanted if spec.peers or options.all_peers or m in bench.FAST]
        rows += [row(options, spec.name, spec.kind, path, method) for method in methods]
    if options.real:
        for name, kind, make in (
            (KNOWN, "real texture", known_motion),
            (REAL, "real", real_pair),
        ):
            if path := kept_pair(options.cache, name, make):
                methods = [m for m in wanted if kind == "real" or options.all_peers or m in bench.FAST]
                rows += [row(options, name, kind, path, method) for method in methods]
    if options.scaling:
        spec = bench.plan(options.plan)[0]
        path = options.cache / "pairs" / f"{spec.name}-{spec.seed}-{options.spacing:g}mm.npz"
        for threads in range(1, options.threads + 1):
            rows.append(row(options, spec.name, "scaling", path, "lungvq", threads=threads))
        rows.append(row(options, spec.name, "scaling", path, "lungvq", at_once=2))
        for working in (3.0, 2.0, 1.5):
            rows.append(row(options, spec.name, "scaling", path, "lungvq", working=working))
    finished = [r for r in rows if "values" in r]
    failed = [f"- {r['pair']}, {r['method']}: {r['failed']}" for r in rows if "failed" in r]
    text = "\n".join(
        [
            made_with("python " + " ".join(sys.argv)),
            "",
            f"{bench.machine()}; {options.threads} threads; phantoms at {options.spacing:g} mm, working grid"
            f" {f'{options.working:g} mm' if options.working else 'as by default'}, plan {options.plan}. Masks: the"
            " true lungs, for all methods alike. elastix with a quarter of its usual iterations.",
            "",
            bench.report(finished),
            *(["Failed:", "", *failed, ""] if failed else []),
        ]
    )
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("registration-bench"), help="where pairs and rows are"
    )
    parser.add_argument(
        "--pairs", type=int, help="only the first N of the plan, the slow methods' pairs first"
    )
    parser.add_argument("--only", help="only the pairs of these names, separated by commas")
    parser.add_argument("--methods", help=f"separated by commas, of: {', '.join(bench.METHODS)}")
    parser.add_argument("--all-peers", action="store_true", help="slow methods on every pair")
    parser.add_argument("--spacing", type=float, default=2.0, help="voxels of the phantoms, mm")
    parser.add_argument("--working", type=float, help="voxels of the working grid, mm")
    parser.add_argument(
        "--plan", type=int, default=4, help="seed that draws the pairs; tune on one, judge on another"
    )
    parser.add_argument("--inverse", action="store_true", help="also register the other way round")
    parser.add_argument("--real", action="store_true", help="also the real scans of $LUNGVQ_TEST_DATA")
    parser.add_argument("--scaling", action="store_true", help="also lungvq by threads and by working grid")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--again", action="store_true", help="do again what is in the cache")
    parser.add_argument("--output", "-o", type=Path, help="also write the tables to this file")
    parser.add_argument("--one", nargs=2, metavar=("PAIR", "METHOD"), help=argparse.SUPPRESS)
    return parser.parse_args()


def row(
    options: argparse.Namespace,
    pair: str,
    kind: str,
    path: Path,
    method: str,
    *,
    threads: int | None = None,
    working: float | None = None,
    at_once: int = 1,
) -> dict:
    """One pair by one method: from the cache, or registered in a process of its own; with others beside it."""
    threads, working = threads or options.threads, working or options.working
    key = {
        "pair": path.stem,
        "made": int(path.stat().st_mtime),
        "method": method,
        "working": working,
        "inverse": options.inverse,
        "threads": threads,
        **({"at_once": at_once} if at_once > 1 else {}),
        "code": fingerprint(method),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    kept = options.cache / "rows" / f"{path.stem}-{method.replace(' ', '_')}-{digest}.json"
    found = {"pair": pair, "kind": kind, "method": method, "key": key}
    if kept.exists() and not options.again:
        return json.loads(kept.read_text(encoding="utf-8")) | {"kind": kind}
    command = [sys.executable, __file__, "--one", str(path), method]
    command += ["--working", str(working)] if working else []
    command += ["--inverse"] if options.inverse else []
    start = time.monotonic()
    environment = os.environ | {"NUMBA_NUM_THREADS": str(threads)}
    others = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        for _ in range(at_once - 1)
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    for other in others:
        other.wait()
    if done.returncode != 0:
        said = (done.stderr.strip() or "nothing").splitlines()[-1]
        tell(f"{pair}, {method}: failed, {said}")
        return found | {"failed": f"exit code {done.returncode}: {said}"}
    found |= json.loads(done.stdout)
    values = found["values"]
    told = {"error mm": "dense_mean", "p95": "dense_p95", "pleura": "shell_0-3", "J r": "jacobian_r_5"}
    told |= {"J rms %": "jacobian_rms_5", "s": "wall_s"}
    text = ", ".join(f"{label} {values[name]:.3g}" for label, name in told.items() if name in values)
    tell(f"{pair}, {method}: {text} ({time.monotonic() - start:.0f} s with all)")
    kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def one(options: argparse.Namespace) -> None:
    """In a process of its own: register, and print the result as JSON."""
    path, method = options.one
    found = bench.run_method(bench.load_pair(Path(path)), method, options.working, options.inverse)
    print(json.dumps(found))


def fingerprint(method: str) -> str:
    """What changes with the code a method runs."""
    package = Path(lungvq.__file__).parent
    files = [package / "register" / name for name in ("backends.py", "_elastix.py", "engine.py")]
    if method in bench.OURS:
        files = sorted(
            [*(package / "register").glob("*.py"), package / "_sampling.py", package / "_parallel.py"]
        )
    if method == bench.LOBES_APART:
        files += sorted((package / "segment").glob("*.py"))
    if method.startswith(("greedy", "elastix")):
        files = files[:2]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def kept_pair(cache: Path, name: str, make: Callable[[Path], bench.TruePair]) -> Path | None:
    """The file of a pair made from real scans; None without them."""
    folder = os.environ.get("LUNGVQ_TEST_DATA")
    if not folder:
        tell(f"no {name}: LUNGVQ_TEST_DATA is not set")
        return None
    path = cache / "pairs" / f"{name.replace(' ', '-')}.npz"
    if not path.exists():
        tell(f"making {name}")
        bench.save_pair(make(Path(folder)), path)
    return path


def real_pair(folder: Path) -> bench.TruePair:
    """Two phases of a 4D-CT with lungvq's own masks; nobody knows the truth."""
    fixed, moving = (
        io.read(folder / "ct-pair-4d" / f"{name}.nii.gz").volume.reorient(CANONICAL)
        for name in ("exhale", "inhale")
    )
    a, b = (segment(scan).lungs for scan in (fixed, moving))
    empty = np.zeros((0, 3), np.float32)
    return bench.TruePair(fixed, moving, a, b, a, b, empty, empty[:, 0], np.zeros((0, 2, 3)))


def known_motion(folder: Path) -> bench.TruePair:
    """A real scan of 512 x 512 x 275 voxels, moved by a motion of our making."""
    scan = io.read(folder / "ct-chest-1mm-dicom").volume.reorient(CANONICAL)
    return bench.known_motion_pair(scan, segment(scan).lungs)


def tell(line: str) -> None:
    """What goes on, beside the tables."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
