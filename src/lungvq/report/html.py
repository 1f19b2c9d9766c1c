"""From the page's dict and its pictures to one HTML file that needs nothing else.

The file carries no script and loads nothing: its Content-Security-Policy allows inline data images and the
one style sheet whose hash it names, so that text from a file name stays text whatever it contains.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lungvq.report.plate import Picture

__all__ = ["render"]

_DENSITY = 1.4  # px of a picture per px of the page: sharp on fine screens, the same scale for all


def render(page: Mapping[str, Any], pictures: Mapping[str, Picture]) -> str:
    """The report as HTML.

    Parameters
    ----------
    page : dict
        What `content.build_page` returns.
    pictures : dict of str to Picture
        By name; a missing one is left out of the page.
    """
    environment = Environment(
        loader=PackageLoader("lungvq.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = resources.files("lungvq.report").joinpath("templates/report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    shown = {
        name: {
            "uri": _data_uri(picture) if picture.kind == "png" else "",
            "svg": Markup(picture.data.decode()) if picture.kind == "svg" else "",
            "alt": picture.alt,
            "width": round(picture.size[0] / _DENSITY),
            "height": round(picture.size[1] / _DENSITY),
        }
        for name, picture in pictures.items()
    }
    template = environment.get_template("report.html.j2")
    # The hash must be of exactly the text between the tags.
    return template.render(page=page, pictures=shown, style=Markup(style), style_hash=digest)


def _data_uri(picture: Picture) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.data).decode()}"
