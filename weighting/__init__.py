"""Loss weighting for multi-task learning: K raw losses in, K coefficients out."""
