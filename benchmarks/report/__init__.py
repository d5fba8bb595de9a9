"""From numbers to tables, pictures and pages. Computes nothing."""
