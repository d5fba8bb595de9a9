"""What measures: problems, the harness that trains them, the report that reads the records."""
