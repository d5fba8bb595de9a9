"""One self-contained page about a suite: opens without a network, made of the records alone."""
