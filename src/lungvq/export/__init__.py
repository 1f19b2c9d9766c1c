"""What leaves the program: files in a folder, and the manifest that makes them a result."""

from lungvq.export.files import write_maps_and_labels, write_metrics
from lungvq.export.folder import RunFolder, open_run, verify

__all__ = ["RunFolder", "open_run", "verify", "write_maps_and_labels", "write_metrics"]
