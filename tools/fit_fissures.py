"""Fit the constants of lungvq.fissures to annotated fissure points, and say how good they are.

    python tools/fit_fissures.py FOLDER [--write] [--quick]

FOLDER holds, as published with the Chest Imaging Platform (Resources/LungLobeAtlasData), one
``<case>_regionAndTypePoints.csv`` and one ``<case>_TO_<atlas>_transform.tfm`` for each person, and the label
map of both lungs of the atlas. Nothing of a single person is written: only means, modes and spreads.
``--write`` replaces the constants in src/lungvq/fissures.py; ``--quick`` leaves out the errors on people
left out.

The model is a linear mixed one: a person's coefficients are c = mu + d, d of covariance S, a point lies at
z = A(x, y) c + e; d and e are Student t (4 degrees). Expectation maximisation finds mu, S and the scale of
e, so a person with few points leans on the others, and one stray point or one odd person pulls little. The
correlations of S are shrunk towards zero, as 20 coefficients are many for 50 people.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MODULE = ROOT / "src" / "lungvq" / "fissures.py"
FISSURES = ("left_oblique", "right_oblique", "horizontal")
GROUPS = {"left": ("left_oblique",), "right": ("right_oblique", "horizontal")}
DEGREES_OF_FREEDOM = 4.0
REPEATS = 2.0  # neighbours on one drawn line repeat each other: so many points tell as much as one
SHRINK = 0.1
KEPT = 0.95  # share of the variance of height that the modes keep
FEW = 5
FEWEST = 20  # points a fissure needs to be used in the error of people left out


def terms(x, y):
    """The ten monomials of a cubic surface, shape (n, 10)."""
    x, y = x - 0.5, y - 0.5
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y, x**3, x * x * y, x * y * y, y**3], axis=-1)


# --- reading ----------------------------------------------------------------------------------------------


@dataclass
class Atlas:
    """Boxes of both lungs, faces in LPS mm: for each side (low corner, size)."""

    boxes: dict[str, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def read(cls, path: Path) -> Atlas:
        head, _, data = path.read_bytes().partition(b"\n\n")
        field = dict(re.findall(r"^([a-z ]+): (.*)$", head.decode(), re.M))
        sizes = [int(n) for n in field["sizes"].split()]
        numbers = r"-?[\d.]+(?:e-?\d+)?"
        spacing = np.array(re.findall(numbers, field["space directions"]), float).reshape(3, 3).diagonal()
        origin = np.array(re.findall(numbers, field["space origin"]), float)
        labels = np.frombuffer(gzip.decompress(data), "<u2").reshape(sizes[::-1])
        boxes = {}
        for side, label in (("right", 2), ("left", 3)):
            inside = labels == label
            ends = [np.flatnonzero(inside.any(axis=axes))[[0, -1]] for axes in ((0, 1), (0, 2), (1, 2))]
            low, high = np.add(np.transpose(ends), [[-0.5], [0.5]])
            boxes[side] = (origin + low * spacing, (high - low) * spacing)
        return cls(boxes)

    def normalised(self, points, side):
        """LPS mm -> x 0 right to 1 left, y 0 front to 1 back, z 0 base to 1 apex of that lung's box."""
        low, size = self.boxes[side]
        return (points - low) / size


def read_affine(path: Path):
    """Matrix and offset of an ITK affine, that maps the atlas onto the person."""
    text = path.read_text()
    lines = dict(re.findall(r"^(Parameters|FixedParameters): (.*)$", text, re.M))
    values, fixed = (np.array(lines[key].split(), float) for key in ("Parameters", "FixedParameters"))
    matrix = values[:9].reshape(3, 3)
    return matrix, values[9:] + fixed - matrix @ fixed


def which(region: str, kind: str) -> str | None:
    region, kind = region.upper(), kind.upper()
    if kind == "OBLIQUEFISSURE" and region.startswith("LEFT"):
        return "left_oblique"
    if kind == "OBLIQUEFISSURE" and region.startswith("RIGHT"):
        return "right_oblique"
    if kind == "HORIZONTALFISSURE" and region.startswith("RIGHT"):
        return "horizontal"
    return None


def read_people(folder: Path):
    """Name -> fissure -> (points in the box, the person's own points in mm); and the atlas."""
    atlas = Atlas.read(next(folder.glob("*_leftLungRightLung.nrrd")))
    people = {}
    for path in sorted(folder.glob("*_regionAndTypePoints.csv")):
        name = path.name.removesuffix("_regionAndTypePoints.csv")
        own: dict[str, list] = {fissure: [] for fissure in FISSURES}
        with path.open() as file:
            for row in csv.reader(file):
                fissure = which(*row[:2]) if len(row) == 5 else None
                if fissure:
                    own[fissure].append([float(v) for v in row[2:]])
        transforms = list(folder.glob(f"{name}_TO_*_transform.tfm"))
        if transforms:
            matrix, offset = read_affine(transforms[0])
        else:  # the person the atlas was made of
            matrix, offset = np.eye(3), np.zeros(3)
        people[name] = {}
        for fissure, points in own.items():
            if points:
                points = np.array(points)
                common = np.linalg.solve(matrix, (points - offset).T).T
                box = atlas.normalised(common, "left" if fissure.startswith("left") else "right")
                # Slips of the annotation, far outside the lung
                keep = ((box > -0.1) & (box < 1.1)).all(axis=1)
                people[name][fissure] = (box[keep], points[keep])
    return people, atlas


# --- the mixed model --------------------------------------------------------------------------------------


@dataclass
class Model:
    """Mean and spread of the coefficients (10 a fissure), and the scale of the points' noise in box heights."""

    fissures: tuple[str, ...]
    mean: np.ndarray
    cov: np.ndarray
    noise: float

    def design(self, person):
        rows, heights = [], []
        for at, fissure in enumerate(self.fissures):
            if fissure in person:
                box = person[fissure]
                block = np.zeros((len(box), 10 * len(self.fissures)))
                block[:, 10 * at : 10 * at + 10] = terms(box[:, 0], box[:, 1])
                rows.append(block)
                heights.append(box[:, 2])
        return np.concatenate(rows), np.concatenate(heights)

    def posterior(self, a, z, noise=None, steps=5):
        """Mean, covariance, weights and squared misfits of the points, weight of the person.

        By iteratively reweighted least squares.
        """
        weight, own = np.ones(len(z)), 1.0
        noise = self.noise if noise is None else noise
        precision = np.linalg.inv(self.cov)
        nu = DEGREES_OF_FREEDOM
        for _ in range(steps):
            aw = a.T * (weight / noise**2 / REPEATS)
            cov = np.linalg.inv(own * precision + aw @ a)
            mean = self.mean + cov @ (aw @ (z - a @ self.mean))
            scatter = (z - a @ mean) ** 2 + np.einsum("ij,jk,ik->i", a, cov, a)
            weight = (nu + 1) / (nu + scatter / noise**2)
            off = mean - self.mean
            own = (nu + len(off)) / (nu + off @ precision @ off + (precision * cov).sum())
        return mean, cov, weight, scatter, own


def fit(people, fissures, iterations=60) -> Model:
    """Expectation maximisation, in a basis that is orthonormal over the pooled points."""
    people = [{f: p[f] for f in fissures if f in p} for p in people]
    people = [p for p in people if p]
    size = 10 * len(fissures)
    change = np.zeros((size, size))  # monomials -> orthonormal basis
    for at, fissure in enumerate(fissures):
        pool = np.concatenate([p[fissure] for p in people if fissure in p])
        a = terms(pool[:, 0], pool[:, 1])
        block = slice(10 * at, 10 * at + 10)
        change[block, block] = np.linalg.inv(np.linalg.cholesky(a.T @ a / len(a))).T
    model = Model(fissures, np.zeros(size), np.eye(size) * 0.05**2, 0.02)
    data = [(a @ change, z) for a, z in (model.design(p) for p in people)]
    aa = sum(a.T @ a for a, _ in data)
    model.mean = np.linalg.solve(aa + 1e-6 * np.eye(size), sum(a.T @ z for a, z in data))
    for _ in range(iterations):
        fits = [model.posterior(a, z, steps=2) for a, z in data]
        means = np.array([f[0] for f in fits])
        own = np.array([f[4] for f in fits])
        model.mean = own @ means / own.sum()
        off = means - model.mean
        spread = ((off.T * own) @ off + sum(f[4] * f[1] for f in fits)) / len(fits)
        model.cov = (1 - SHRINK) * spread + SHRINK * np.diag(spread.diagonal())
        model.noise = float(np.sqrt(sum((f[2] * f[3]).sum() for f in fits) / sum(len(z) for _, z in data)))
    return Model(fissures, change @ model.mean, change @ model.cov @ change.T, model.noise)


def modes(model: Model, footprint):
    """Principal directions of the height over the footprints, each scaled to 1 sd; shape (n, 10 * fissures).

    The metric is the variance of height, in box heights, mean over the fissures' footprints.
    """
    size = len(model.mean)
    metric = np.zeros((size, size))
    for at, fissure in enumerate(model.fissures):
        a = terms(*footprint[fissure].T)
        block = slice(10 * at, 10 * at + 10)
        metric[block, block] = a.T @ a / len(a) / len(model.fissures)
    root = np.linalg.cholesky(metric)
    value, vector = np.linalg.eigh(root.T @ model.cov @ root)
    order = np.argsort(value)[::-1]
    value, vector = value[order], vector[:, order]
    keep = int(np.searchsorted(np.cumsum(value) / value.sum(), KEPT)) + 1
    directions = np.linalg.solve(root.T, vector[:, :keep]) * np.sqrt(value[:keep])
    return directions.T, np.cumsum(value)[keep - 1] / value.sum()


# --- what is printed --------------------------------------------------------------------------------------


def spread_of(model, fissure, footprint):
    """Between-person sd of height, root mean square over the footprint."""
    at = model.fissures.index(fissure)
    a = terms(*footprint[fissure].T)
    block = slice(10 * at, 10 * at + 10)
    return float(np.sqrt(np.einsum("ij,jk,ik->i", a, model.cov[block, block], a).mean()))


def tilt(points):
    """Angle of the fitted plane to the axial plane, and its slopes from front to back and right to left, deg."""
    normal = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][2]
    normal *= np.sign(normal[2])
    return np.degrees(
        [np.arccos(normal[2]), np.arctan2(-normal[1], normal[2]), np.arctan2(-normal[0], normal[2])]
    )


def left_out(people, boxes, rng, noise_mm=2.0, draws=3):
    """Errors on each person by a model of the others: fissure -> points given -> (along z, along the normal), mm."""
    errors = {f: {k: ([], []) for k in (0, 5, 10, 20)} for f in FISSURES}
    for group, fissures in GROUPS.items():
        size = boxes[group][1]
        for out in range(len(people)):
            person = {f: people[out][f] for f in fissures if len(people[out].get(f, ())) >= FEWEST + 10}
            if not person:
                continue
            model = fit([p for i, p in enumerate(people) if i != out], fissures, iterations=25)
            for given in (0, 5, 10, 20):
                for _ in range(draws if given else 1):
                    picked = {f: rng.permutation(len(box))[:given] for f, box in person.items()}
                    c = model.mean
                    if given:
                        few = {f: person[f][picked[f]] for f in person}
                        c = model.posterior(*model.design(few), noise=noise_mm / size[2])[0]
                    for f, box in person.items():
                        rest = np.delete(box, picked[f], axis=0)
                        part = c[10 * fissures.index(f) :][:10]
                        step = 1e-4
                        at = terms(rest[:, 0], rest[:, 1]) @ part
                        slopes = [
                            (terms(rest[:, 0] + dx, rest[:, 1] + dy) @ part - at) / step * size[2] / mm
                            for dx, dy, mm in ((step, 0, size[0]), (0, step, size[1]))
                        ]
                        along = np.abs(rest[:, 2] - at) * size[2]
                        errors[f][given][0].append(along)
                        errors[f][given][1].append(along / np.sqrt(1 + slopes[0] ** 2 + slopes[1] ** 2))
    return errors


def number(value, digits=4):
    return f"{value:.{digits}f}"


def tuple_text(values):
    return "(" + ", ".join(number(v) for v in values) + ",)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--write", action="store_true", help="replace the constants of src/lungvq/fissures.py"
    )
    parser.add_argument("--quick", action="store_true", help="no errors on people left out")
    options = parser.parse_args()

    everyone, atlas = read_people(options.folder)
    phases = {
        "insp": {n: p for n, p in everyone.items() if "_INSP_" in n},
        "exp": {n: p for n, p in everyone.items() if "_EXP_" in n},
    }
    for side, (_, size) in atlas.boxes.items():
        print(f"box of the {side} lung, x y z mm: {np.round(size, 1)}")

    models, boxed = {}, {}
    for phase, people in phases.items():
        boxed[phase] = [{f: box for f, (box, _) in p.items()} for p in people.values()]
        models[phase] = {g: fit(boxed[phase], fissures) for g, fissures in GROUPS.items()}
    group_of = {f: g for g, fissures in GROUPS.items() for f in fissures}

    # Footprint: the cells, 1/20 of the box wide, in which at least FEW of the people have a point
    footprint, ranges = {}, {}
    for f in FISSURES:
        cells = [np.unique(np.floor(p[f][:, :2] * 20), axis=0) for p in boxed["insp"] if f in p]
        cells, seen = np.unique(np.concatenate(cells), axis=0, return_counts=True)
        footprint[f] = (cells[seen >= FEW] + 0.5) / 20
        ranges[f] = [(xy.min() - 0.025, xy.max() + 0.025) for xy in footprint[f].T]

    for phase, people in phases.items():
        print(f"\n{phase}: {len(people)} people")
        for f in FISSURES:
            model = models[phase][group_of[f]]
            own = [p[f][1] for p in people.values() if f in p and len(p[f][1]) >= 10]
            angles = np.array([tilt(points) for points in own])
            print(
                f"  {f:14s} {len(own)} people, {sum(map(len, own))} points; sd of z_n"
                f" {spread_of(model, f, footprint):.4f}, residual {model.noise:.4f}; angle to axial"
                f" {angles[:, 0].mean():.0f} +- {angles[:, 0].std(ddof=1):.0f}"
                f" ({angles[:, 0].min():.0f} to {angles[:, 0].max():.0f}),"
                f" sagittal {angles[:, 1].mean():.0f} +- {angles[:, 1].std(ddof=1):.0f},"
                f" coronal {angles[:, 2].mean():.0f} +- {angles[:, 2].std(ddof=1):.0f} deg"
            )
    print(
        "\nexpiration minus inspiration, mean surfaces over the footprint, in box heights (and its standard error):"
    )
    for f in FISSURES:
        a = terms(*footprint[f].T)
        block = slice(10 * GROUPS[group_of[f]].index(f), 10 * GROUPS[group_of[f]].index(f) + 10)
        d = a @ (models["exp"][group_of[f]].mean - models["insp"][group_of[f]].mean)[block]
        one = a.mean(axis=0)
        error = np.sqrt(
            sum(one @ models[p][group_of[f]].cov[block, block] @ one / len(phases[p]) for p in phases)
        )
        print(f"  {f:14s} mean {d.mean():+.3f} (se {error:.3f}), rms {np.sqrt((d**2).mean()):.3f}")

    means = {f: models["insp"][group_of[f]].mean[10 * GROUPS[group_of[f]].index(f) :][:10] for f in FISSURES}
    constants = []
    for group in GROUPS:
        model = models["insp"][group]
        directions, share = modes(model, footprint)
        print(f"{group}: {len(directions)} modes keep {share:.3f} of the variance of height")
        constants.append((group, directions, model.noise))
    text = ["# Written by tools/fit_fissures.py; do not edit by hand."]
    text.append("# fmt: off")
    text.append("MEANS = Fissures(")
    text += [f"    {f}={tuple_text(means[f])}," for f in FISSURES]
    text.append(")")
    for group, directions, _ in constants:
        text.append(f"{group.upper()}_MODES: tuple[tuple[float, ...], ...] = (")
        text += [
            f"    {tuple_text(row)},"
            if len(row) == 10
            else f"    ({tuple_text(row[:10])[1:-2]},\n     {tuple_text(row[10:])[1:-2]}),"
            for row in directions
        ]
        text.append(")")
    text.append("VALID: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {")
    text += [
        f'    "{f}": (({x[0]:.3f}, {x[1]:.3f}), ({y[0]:.3f}, {y[1]:.3f})),' for f, (x, y) in ranges.items()
    ]
    text.append("}")
    text.append("SPREAD: dict[str, float] = {")
    text += [f'    "{f}": {spread_of(models["insp"][group_of[f]], f, footprint):.4f},' for f in FISSURES]
    text.append("}")
    text.append("RESIDUAL: dict[str, float] = {")
    text += [f'    "{f}": {models["insp"][group_of[f]].noise:.4f},' for f in FISSURES]
    text.append("}")
    text.append("# fmt: on")
    block = "\n".join(text) + "\n"
    if options.write:
        source = MODULE.read_text()
        start, end = source.index("# Written by tools/"), source.index("# fmt: on\n") + len("# fmt: on\n")
        MODULE.write_text(source[:start] + block + source[end:])
        print(f"wrote {MODULE.name}")
    else:
        print(block)

    if not options.quick:
        print(
            "\nerror on the person left out (inspiration), mm: mean / median / 95th percentile over all points"
        )
        errors = left_out(boxed["insp"], atlas.boxes, np.random.default_rng(0))
        for f in FISSURES:
            for given, both in errors[f].items():
                line = [f"  {f:14s} {given:2d} points given:"]
                for name, values in zip(("along z", "along the normal"), both, strict=True):
                    pool = np.concatenate(values)
                    line.append(
                        f"{name} {pool.mean():.1f} / {np.median(pool):.1f} / {np.percentile(pool, 95):.1f};"
                    )
                line.append(
                    f"median over people of the mean along z {np.median([v.mean() for v in both[0]]):.1f}"
                )
                print(" ".join(line))


if __name__ == "__main__":
    main()
