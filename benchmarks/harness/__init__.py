"""From a suite to recorded runs."""
