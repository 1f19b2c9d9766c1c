"""lungvq's segmentation on phantoms whose anatomy is known, and on real scans of known volume.

    python benchmarks/segmentation.py --cache FOLDER                     # everything: an hour or two
    python benchmarks/segmentation.py --cache FOLDER --cases 3           # the three coarsest: a minute
    python benchmarks/segmentation.py --cache FOLDER --only healthy,pe --spacing 1.5

Each phantom is segmented in a process of its own. Finished ones are kept in the cache, so that a stopped run goes
on where it was; one whose code has changed since is done again. Times mean something on an idle machine only.
The real scans need LUNGVQ_TEST_DATA.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import lungvq
from lungvq.bench import segmentation as bench
from lungvq.bench.table import made_with


def main() -> None:
    """Parse the command line, run what is missing, print the tables."""
    options = parsed()
    if options.one:
        print(json.dumps(bench.measure(bench.load_known(options.one))))
        return
    if options.real_one:
        print(json.dumps(bench.measure_real(options.real_one, test_data())))
        return
    specs = bench.plan(options.plan)
    if options.only:
        wanted = options.only.split(",")
        if unknown := sorted(set(wanted) - {spec.name for spec in specs}):
            sys.exit(f"no phantom {', '.join(unknown)}; expected of {', '.join(spec.name for spec in specs)}")
        specs = [spec for spec in specs if spec.name in wanted]
    if options.fissures:
        specs = [spec for spec in specs if spec.fissures in options.fissures.split(",")]
    if options.spacing:
        specs = [replace(spec, slice_mm=options.spacing, pixel_mm=options.spacing) for spec in specs]
    specs = specs[: options.cases]
    for folder in ("phantoms", "rows"):
        (options.cache / folder).mkdir(parents=True, exist_ok=True)
    rows = [row(options, spec) for spec in specs]
    from lungvq.bench.registration import machine

    finished = [r for r in rows if "values" in r]
    failed = [f"- {r['phantom']}: {r['failed']}" for r in rows if "failed" in r]
    text = [
        made_with("python " + " ".join(sys.argv)),
        "",
        f"{machine()}; {options.threads} threads; {len(finished)} phantoms of plan {options.plan}.",
        "",
    ]
    if finished:
        text += [bench.report(finished), ""]
    if failed:
        text += ["Failed:", "", *failed, ""]
    if options.real:
        text += [
            "### Real scans",
            "",
            bench.real_report([real_row(options, name) for name in bench.REAL]),
            "",
        ]
    print("\n".join(text))
    if options.output:
        options.output.write_text("\n".join(text), encoding="utf-8")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("segmentation-bench"), help="where phantoms and rows are"
    )
    parser.add_argument("--cases", type=int, help="only the first N of the plan, the coarsest first")
    parser.add_argument("--only", help="only the phantoms of these names, separated by commas")
    parser.add_argument("--fissures", help="only these, separated by commas: visible, partly, invisible")
    parser.add_argument("--spacing", type=float, help="voxels of all phantoms, mm, instead of the plan's")
    parser.add_argument(
        "--plan", type=int, default=5, help="seed that draws the phantoms; tune on one, judge on another"
    )
    parser.add_argument("--real", action="store_true", help="also the real scans of $LUNGVQ_TEST_DATA")
    parser.add_argument(
        "--threads", type=int, default=int(os.environ.get("NUMBA_NUM_THREADS", os.cpu_count() or 1))
    )
    parser.add_argument("--again", action="store_true", help="do again what is in the cache")
    parser.add_argument(
        "--forget", action="store_true", help="keep no phantom: they are made again each time"
    )
    parser.add_argument("--output", "-o", type=Path, help="also write the tables to this file")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--real-one", help=argparse.SUPPRESS)
    return parser.parse_args()


def row(options: argparse.Namespace, spec: bench.Spec) -> dict:
    """One phantom: from the cache, or segmented in a process of its own."""
    path = options.cache / "phantoms" / f"{spec.name}-{phantom_key(spec)}.npz"
    key = {"phantom": path.stem, "threads": options.threads, "code": fingerprint("segment")}
    found = {
        "phantom": spec.name,
        "fissures": spec.fissures,
        "slice_mm": spec.slice_mm,
        "pixel_mm": spec.pixel_mm,
    }
    kept = options.cache / "rows" / f"{spec.name}-{digest(key)}.json"
    if kept.exists() and not options.again:
        return found | json.loads(kept.read_text(encoding="utf-8"))
    start = time.monotonic()
    if not path.exists():
        tell(f"making {spec.name} ({spec.slice_mm:g} x {spec.pixel_mm:g} mm, fissures {spec.fissures})")
        bench.save_known(bench.make_known(spec), path)
    done = in_its_own_process(options, "--one", str(path))
    if options.forget:
        path.unlink()
    if "failed" in done:
        tell(f"{spec.name}: failed, {done['failed']}")
        return found | done
    values = bench.derived(done["values"])
    told = {"lungs": "insp_lungs", "exp": "exp_lungs", "lobes": "ours_lobes", "prior": "null_lobes"}
    told |= {"RML": "ours_RML", "fissures mm": "fissure", "completeness off": "completeness_off"}
    told |= {"bronchi %": "bronchi_share", "leak %": "leak", "s": "insp_s", "lobes s": "lobes_s"}
    text = ", ".join(f"{label} {values[name]:.3g}" for label, name in told.items() if name in values)
    codes = f" [{', '.join(done['codes'])}]" if done["codes"] else ""
    tell(f"{spec.name}: {text}{codes} ({time.monotonic() - start:.0f} s with all)")
    kept.write_text(json.dumps(done, indent=1), encoding="utf-8")
    return found | done


def real_row(options: argparse.Namespace, name: str) -> dict:
    """One real scan, likewise."""
    test_data()
    key = {"scan": name, "threads": options.threads, "code": fingerprint("segment", "io")}
    kept = options.cache / "rows" / f"{name.replace('/', '-')}-{digest(key)}.json"
    if kept.exists() and not options.again:
        return {"scan": name} | json.loads(kept.read_text(encoding="utf-8"))
    done = in_its_own_process(options, "--real-one", name)
    tell(f"{name}: {done}")
    if "failed" not in done:
        kept.write_text(json.dumps(done, indent=1), encoding="utf-8")
    return {"scan": name} | done


def in_its_own_process(options: argparse.Namespace, *arguments: str) -> dict:
    """What this script prints with some arguments, or how it failed."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"NUMBA_NUM_THREADS": str(options.threads)},
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or "nothing").splitlines()[-1]
        return {"failed": f"exit code {done.returncode}: {said}"}
    return dict(json.loads(done.stdout))


def test_data() -> Path:
    """The folder of real scans."""
    folder = os.environ.get("LUNGVQ_TEST_DATA")
    if not folder:
        sys.exit("LUNGVQ_TEST_DATA is not set: it names the folder of the real scans")
    return Path(folder)


def phantom_key(spec: bench.Spec) -> str:
    """What changes with the spec, or with the code that makes phantoms."""
    return digest({"spec": repr(spec), "code": fingerprint("phantom")})


def digest(key: dict) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(*packages: str) -> str:
    """What changes with the code of some packages and of this benchmark's measures."""
    root = Path(lungvq.__file__).parent
    files = [file for name in packages for file in sorted((root / name).glob("*.py"))]
    files.append(root / "fissures.py")
    if "phantom" not in packages:
        files.append(root / "bench" / "segmentation.py")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def tell(line: str) -> None:
    """What goes on, beside the tables."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
