"""What a step costs under each method, beside hand-written PyTorch."""
