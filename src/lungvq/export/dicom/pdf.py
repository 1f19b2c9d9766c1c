"""The report on paper, as an Encapsulated PDF."""

from __future__ import annotations

from pathlib import Path

from pydicom.sr.codedict import codes

from lungvq.export.dicom.common import Context, code_item, save

__all__ = ["write_pdf"]


def write_pdf(context: Context, pdf: bytes, path: Path) -> int:
    """Write a PDF into the study; returns the number of files."""
    document = context.new("report")
    document.ConversionType = "WSD"
    document.BurnedInAnnotation = "YES"
    document.AcquisitionDateTime = ""
    document.DocumentTitle = "Lung ventilation and perfusion from CT (research)"
    document.ConceptNameCodeSequence = [code_item(codes.DCM.ImagingMeasurementReport)]
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document.EncapsulatedDocumentLength = len(pdf)
    document.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    save(document, path)
    return 1
