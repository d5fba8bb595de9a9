"""What to cite for a method."""

from __future__ import annotations

import re
from importlib.resources import files

ENTRY = re.compile(r"^% (\w+)\n(@\w+\{.*?^\})$", flags=re.MULTILINE | re.DOTALL)
"""A method's name and its BibTeX."""


def citations() -> dict[str, str]:
    """Method -> BibTeX, of those that are no variants."""
    text = files("weighting").joinpath("citations.bib").read_text(encoding="utf-8")
    return dict(ENTRY.findall(text))
