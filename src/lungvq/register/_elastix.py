"""The process in which elastix runs: images and masks of a folder to ``warp.mha`` in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_COMMON = {
    "FixedInternalImagePixelType": ["float"],
    "MovingInternalImagePixelType": ["float"],
    "FixedImagePyramid": ["FixedRecursiveImagePyramid"],
    "MovingImagePyramid": ["MovingRecursiveImagePyramid"],
    "Interpolator": ["BSplineInterpolator"],
    "BSplineInterpolationOrder": ["1"],
    "Optimizer": ["AdaptiveStochasticGradientDescent"],
    "AutomaticParameterEstimation": ["true"],
    "ImageSampler": ["RandomSparseMask"],
    "NumberOfSpatialSamples": ["2000"],
    "NumberOfSamplesForExactGradient": ["5000"],
    "NewSamplesEveryIteration": ["true"],
    "NumberOfResolutions": ["5"],
    "ErodeMask": ["false"],
    "HowToCombineTransforms": ["Compose"],
    "UseDirectionCosines": ["true"],
    "ResampleInterpolator": ["FinalBSplineInterpolator"],
    "Resampler": ["DefaultResampler"],
    "WriteResultImage": ["false"],
    "RandomSeed": ["1"],
}
_AFFINE = {
    "Registration": ["MultiResolutionRegistration"],
    "Metric": ["AdvancedNormalizedCorrelation"],
    "Transform": ["AffineTransform"],
    "AutomaticScalesEstimation": ["true"],
    "AutomaticTransformInitialization": ["false"],
}
_SPLINE = {
    "Registration": ["MultiMetricMultiResolutionRegistration"],
    "Metric": ["AdvancedNormalizedCorrelation", "TransformBendingEnergyPenalty"],
    "UseRelativeWeights": ["true"],
    "Metric0RelativeWeight": ["1.0"],
    "Metric1RelativeWeight": ["0.05"],
    "Transform": ["BSplineTransform"],
}
# Images were of 0.7 mm, these are of 2 mm and cut to one lung: the coarsest levels are left out.
_PYRAMIDS = ((8, 4, 4, 2, 1), (8, 4, 4, 2, 1), (4, 3, 2, 1, 1))


def parameters(voxel_mm: float, iterations: Sequence[int]) -> list[dict[str, list[str]]]:
    """Affine, then B-splines of 10 and 5 mm, as many of them as `iterations` has numbers; lengths in voxels."""

    def spline(mm: float, *schedule: int) -> dict[str, list[str]]:
        return _SPLINE | {
            "FinalGridSpacingInPhysicalUnits": [str(mm / voxel_mm)] * 3,
            "GridSpacingSchedule": [str(n) for n in schedule],
        }

    stages = (_AFFINE, spline(10, 8, 8, 4, 2, 1), spline(5, 16, 8, 4, 2, 1))
    return [
        _COMMON
        | stage
        | {
            "ImagePyramidSchedule": [str(n) for n in pyramid for _ in range(3)],
            "MaximumNumberOfIterations": [str(count)],
        }
        for stage, pyramid, count in zip(stages, _PYRAMIDS, iterations, strict=False)
    ]


def main(folder: Path, voxel_mm: float, iterations: Sequence[int]) -> None:
    """Register and write the field."""
    os.chdir(folder)  # transformix leaves a copy of the field where it is called
    import itk

    def image(name: str, kind: Any) -> Any:
        return itk.imread(f"{name}.mha", kind)

    settings = itk.ParameterObject.New()
    for stage in parameters(voxel_mm, iterations):
        settings.AddParameterMap(stage)
    fixed, moving = image("fixed", itk.F), image("moving", itk.F)
    # No number of threads is asked for here: several metrics at once then end in a segmentation fault
    # (InsightSoftwareConsortium/ITKElastix issue 160). The environment sets it.
    _, found = itk.elastix_registration_method(
        fixed,
        moving,
        parameter_object=settings,
        fixed_mask=image("fixed_mask", itk.UC),
        moving_mask=image("moving_mask", itk.UC),
        log_to_console=False,
    )
    field = itk.transformix_deformation_field(moving, found)
    itk.imwrite(field, "warp.mha")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), [int(n) for n in sys.argv[3:]])
