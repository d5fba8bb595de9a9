"""From a suite to the runs that it asks for, and how far they are recorded. Trains nothing."""
