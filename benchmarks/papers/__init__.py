"""The claims of papers as checks on records, and their published numbers beside those measured here."""
