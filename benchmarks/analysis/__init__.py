"""From records to numbers: one definition each of what is compared, measured and judged. Draws nothing, writes nothing."""
