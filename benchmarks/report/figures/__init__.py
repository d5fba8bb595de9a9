"""One file per picture: records in, a figure out."""
