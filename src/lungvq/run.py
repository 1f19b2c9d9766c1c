"""From two files to a finished folder: reading, the method, writing, and the record of all of it."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

import lungvq
from lungvq import io
from lungvq.errors import OutputError, ResourceError
from lungvq.export import open_run, write_maps_and_labels, write_metrics
from lungvq.export.dicom import Source, check_extras, check_right_angles, made_up, read_source, write_dicom
from lungvq.export.folder import MANIFEST, free_bytes
from lungvq.findings import Finding, Severity
from lungvq.pipeline import Options, analyse
from lungvq.progress import SILENT, Clock, Progress
from lungvq.report import write_report
from lungvq.result import MAPS, CaseResult
from lungvq.segment.given import Masks
from lungvq.volume import CANONICAL, Volume

__all__ = ["Cost", "RunRecord", "expected_cost", "run_case"]

RESEARCH_USE = "Research use only. Not a medical device; not for diagnosis or treatment."


@dataclass(frozen=True)
class Cost:
    """What a run is expected to take."""

    memory_gb: float
    seconds: float


def expected_cost(insp: Volume, exp: Volume) -> Cost:
    """Memory and time to expect, from the size of the scans: a fit to ``lungvq bench pipeline`` on two cores."""
    millions = (np.prod(insp.shape) + np.prod(exp.shape)) / 1e6
    return Cost(memory_gb=1.0 + 0.019 * float(millions), seconds=31 + 0.27 * float(millions))


@dataclass(frozen=True)
class RunRecord:
    """How a run ended, as its ``run.json`` says."""

    folder: Path
    qc: Severity
    seconds: float
    already_done: bool = False


def run_case(
    insp: Path | io.SeriesInfo,
    exp: Path | io.SeriesInfo,
    out: Path,
    *,
    case: str | None = None,
    options: Options | None = None,
    masks: Masks | None = None,
    selection: Mapping[str, Any] | None = None,
    selection_findings: Sequence[Finding] = (),
    dicom: bool | None = None,
    dicom_also: Sequence[str] = (),
    force: bool = False,
    max_memory_gb: float | None = None,
    progress: Progress = SILENT,
) -> RunRecord:
    """Read two scans, analyse them and leave a folder with maps, numbers and a report.

    Parameters
    ----------
    insp, exp : Path or SeriesInfo
        A file, a folder of one DICOM series, or a series chosen from a study.
    out : Path
        The output folder; see ``export.folder`` for what it may hold before.
    case : str, optional
        Name of the case; default the name of the output folder.
    masks : Masks, optional
        Lungs and lobes from elsewhere.
    dicom : bool, optional
        Whether to write the results as DICOM too; default where the expiration scan is DICOM.
    dicom_also : sequence of str
        Objects to write beyond the usual: `export.dicom.EXTRAS`.
    selection : dict, optional
        How the two scans were found in a study, for the record and the report: `CaseResult.selection`.
    selection_findings : sequence of Finding
        What was noticed while finding them; what `analyse` checks itself is not said twice.
    force : bool
        Replace another result.
    max_memory_gb : float, optional
        Refuse to start when more is expected.

    Returns
    -------
    RunRecord
        With ``already_done`` where the folder held this very result.
    """
    options, masks = options or Options(), masks or Masks()
    named, case = case, case or out.resolve().name
    check_extras(dicom_also)
    start = time.monotonic()
    chosen = [scan if isinstance(scan, io.SeriesInfo) else io.find_scan(scan) for scan in (insp, exp)]
    hashes = {role: io.sha256_of(scan.files) for role, scan in zip(("insp", "exp"), chosen, strict=True)}
    hashes |= masks.hashes()
    key = _key(hashes, case, options, (dicom, sorted(dicom_also)))
    folder = open_run(out, key, force=force)
    if folder is None:
        return _recorded(out, already_done=True)
    try:
        clock = Clock(progress)
        with clock.stage("reading the scans"):
            scans = io.read_series(chosen[0]), io.read_series(chosen[1])
            del chosen
            source = dicom_source(scans[1], dicom, named, hashes, options)
            given = masks.read({"insp": scans[0].volume, "exp": scans[1].volume}, progress)
        _check_resources(scans, out, max_memory_gb, progress, dicom=source is not None)
        result = analyse(*scans, case=case, options=options, given=given, progress=progress)
        del scans, given
        known = {finding.code for finding in result.findings}
        result = replace(
            result,
            timings=[*clock.seconds, *result.timings],
            selection=dict(selection or {}),
            findings=(*(f for f in selection_findings if f.code not in known), *result.findings),
        )
        with clock.stage("writing maps and labels"):
            write_maps_and_labels(result, folder.stage)
            write_metrics(result.metrics, folder.stage / "metrics.csv")
        with clock.stage("writing the report"):
            write_report(result, folder.stage, progress=progress)
        objects = None
        if source is not None:
            with clock.stage("writing DICOM"):
                objects = write_dicom(
                    result,
                    source,
                    folder.stage / "dicom",
                    created=datetime.now(UTC),
                    pdf=(folder.stage / "report.pdf").read_bytes(),
                    also=dicom_also,
                    progress=progress,
                )
        result = replace(result, timings=[*result.timings, *clock.seconds[1:]])
        record = _record(result, hashes, key, time.monotonic() - start) | {
            "dicom": _plain(objects),
            "masks": {
                name: {"name": path.name, "sha256": hashes[name]} for name, path in masks.files.items()
            },
        }
        folder.finish(record)
    except BaseException:
        folder.discard()
        raise
    return _recorded(out)


def dicom_source(
    exp: io.Scan, dicom: bool | None, case: str | None, hashes: Mapping[str, str], options: Options
) -> Source | None:
    """Patient and study for the DICOM results; None where there are to be none.

    Read at once, as files may be gone when the maps are ready. A case's name is part of the UIDs only where it
    becomes the patient: the same scans under another name are the same result.
    """
    if not (exp.kind == "dicom" if dicom is None else dicom):
        return None
    grid = exp.volume.grid
    check_right_angles(grid if exp.kind == "dicom" else grid.reorient(CANONICAL))
    if exp.kind == "dicom":
        return read_source(exp.files, _key(hashes, "", options))
    return made_up(case, _key(hashes, case or "", options))


def _key(hashes: Mapping[str, str], case: str, options: Options, extra: object = None) -> str:
    """Equal for runs that would give the same result."""
    parts: dict[str, Any] = {
        "version": lungvq.__version__,
        "case": case,
        "inputs": hashes,
        "options": asdict(options),
    }
    if extra is not None:
        parts["extra"] = extra
    return sha256(json.dumps(_plain(parts), sort_keys=True).encode()).hexdigest()


def _check_resources(
    scans: tuple[io.Scan, io.Scan],
    out: Path,
    max_memory_gb: float | None,
    progress: Progress,
    *,
    dicom: bool = False,
) -> None:
    insp, exp = (scan.volume for scan in scans)
    cost = expected_cost(insp, exp)
    disk_gb = (np.prod(exp.shape) * (14 if dicom else 6) + np.prod(insp.shape)) / 1e9 + 0.05
    progress.note(
        f"expecting about {cost.memory_gb:.1f} GB of memory and {cost.seconds:.0f} s on two cores"
        f" for {_size(insp)} and {_size(exp)} voxels"
    )
    if max_memory_gb is not None and cost.memory_gb > max_memory_gb:
        raise ResourceError(
            f"about {cost.memory_gb:.1f} GB of memory are expected and --max-memory allows {max_memory_gb:g} GB;"
            " allow more, or resample the scans to fewer voxels"
        )
    free_gb = free_bytes(out) / 1e9
    if free_gb < disk_gb:
        raise OutputError(
            f"the disk of {out} has {free_gb:.2f} GB left and up to {disk_gb:.2f} GB may be needed; free some, or"
            " choose another folder"
        )


def _size(volume: Volume) -> str:
    return "x".join(str(n) for n in reversed(volume.shape))


def _record(result: CaseResult, hashes: Mapping[str, str], key: str, seconds: float) -> dict[str, Any]:
    return _plain(
        {
            "status": "done",
            "qc": result.status.value,
            "key": key,
            "case": result.case,
            "banner": result.banner,
            "research_use": RESEARCH_USE,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "findings": [finding.to_dict() for finding in result.findings],
            "inputs": {
                short: {"role": scan.role, "name": scan.name, "sha256": hashes[short], "facts": scan.facts}
                for short, scan in zip(("insp", "exp"), result.scans, strict=True)
            },
            "selection": result.selection,
            "methods": {
                name: {"method": spec.method, "unit": spec.unit, "meaning": spec.meaning}
                for name, spec in MAPS.items()
            },
            "parameters": result.settings,
            "registration": result.registration,
            "fissures": result.fissures,
            "versions": result.versions,
            "timings_s": {stage: round(taken, 3) for stage, taken in result.timings},
            "seconds": round(seconds, 3),
            "peak_memory_mb": peak_memory_mb(),
        }
    )


def _recorded(out: Path, *, already_done: bool = False) -> RunRecord:
    manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    return RunRecord(out, Severity(manifest["qc"]), float(manifest["seconds"]), already_done)


def peak_memory_mb() -> float | None:
    """Most memory this process has held so far, in MB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    status = Path("/proc/self/status")  # `resource` starts from the size of the process that started this one
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return round(int(line.split()[1]) / 1e3, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)


def _plain(value: Any) -> Any:
    """Only what JSON knows: numbers that are finite (others become null), text, lists and mappings."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
