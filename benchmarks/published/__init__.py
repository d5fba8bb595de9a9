"""Published numbers as data: one YAML file per protocol, read through checks. Only verified numbers come out."""

from __future__ import annotations

from benchmarks.published.loading import Metric, Number, Published, Withheld, papers, protocols, published

__all__ = ["Metric", "Number", "Published", "Withheld", "papers", "protocols", "published"]
