"""The visible list of problems: name -> where its class is. Imported on use, since some need heavy libraries."""

from __future__ import annotations

LISTED: dict[str, str] = {
    "famo_toy": "benchmarks.problems.famo_toy:FamoToy",
    "gradnorm_toy": "benchmarks.problems.gradnorm_toy:GradNormToy",
    "multidigits": "benchmarks.problems.multidigits:MultiDigits",
    "code_lm": "benchmarks.problems.code_lm:CodeLM",
    "finetune_lm": "benchmarks.problems.finetune_lm:FinetuneLM",
}
