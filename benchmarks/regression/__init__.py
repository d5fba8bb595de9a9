"""Two folders of records compared: what changed (``compare``), and whether a method got worse (``check``)."""
