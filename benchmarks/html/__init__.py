"""One self-contained page about a suite: opens without a network, made of the records alone."""

from benchmarks.html.page import write_html

__all__ = ["write_html"]
