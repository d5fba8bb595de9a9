"""The command line: ``python run_bench.py --help``."""

import sys

from benchmarks.cli.main import run

if __name__ == "__main__":
    sys.exit(run())
