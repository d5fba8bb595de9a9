"""What a step costs: measured side by side in one process, never asserted in tests."""
