"""The records of runs: their schema and files, as data frames, for trackers, and of older forms."""
