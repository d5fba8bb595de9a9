"""The files around the code: citation, licence, forms, hooks and workflows are valid and agree with the code."""

from __future__ import annotations
