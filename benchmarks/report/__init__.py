"""From records to tables and pictures, without training."""
