"""Fine-tuning of pretrained language models: models, adapters, data and batches of the problem ``finetune_lm``."""

OWNER = "finetune_lm"
"""The problem's name, with which every message of these modules begins."""
