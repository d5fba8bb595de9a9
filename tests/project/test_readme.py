"""The README and the pages beside it: commands exist, code runs, blocks are as they would be written today."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from places import REFERENCE, ROOT
from torch import Tensor, nn

import benchmarks
import weighting
from benchmarks.cli import main as command_line
from benchmarks.cli import parsers
from benchmarks.planning.plan import Filters, make_plan
from benchmarks.planning.suite import read_suite
from benchmarks.problems import LISTED
from benchmarks.records.reading import read_all
from benchmarks.records.schema import Run
from benchmarks.records.storage import run_folders
from weighting import Observation

BLOCKS = runpy.run_path(str(ROOT / "docs" / "theme" / "blocks.py"))
NUMBERED: tuple[str, ...] = BLOCKS["PAGES"]
PAGES = (
    *NUMBERED,
    "docs/loop.md",
    "docs/integrations.md",
    "docs/finetuning.md",
    "docs/clusters.md",
    "docs/reliability.md",
    "docs/data.md",
    "docs/architecture.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "examples/README.md",
)
METHOD_PAGES = sorted({path.stem for path in (ROOT / "docs" / "methods").glob("*.md")} - {"README", "conformance"})
"""A test of its own holds these to the list of methods."""


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code(name: str, language: str = "") -> list[str]:
    """The blocks of code of a page in a language."""
    return [block for found, block in re.findall(r"```(\w*)\n(.*?)```", text(name), flags=re.DOTALL) if found == language]


def commands(name: str) -> list[str]:
    lines = [line.partition("#")[0].strip() for block in code(name) for line in block.splitlines()]
    return [line for line in lines if line.startswith(("python run_bench.py", "make "))]


def test_the_first_page_is_short_and_has_five_commands() -> None:
    # One line for each method, and 117 others.
    assert len(text("README.md").splitlines()) <= 117 + len(METHOD_PAGES)
    assert commands("README.md")[0] == "make bench"
    assert len([command for command in commands("README.md") if command.startswith("python ")]) == 5


@pytest.mark.parametrize("command", sorted({c for page in PAGES for c in commands(page) if c.startswith("make ")}))
def test_make_targets_exist(command: str) -> None:
    assert re.search(rf"^{command.split()[1]}:", text("Makefile"), flags=re.MULTILINE)


@pytest.mark.parametrize("command", sorted({c for page in PAGES for c in commands(page) if c.startswith("python ")}))
def test_commands_are_understood(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)[2:]
    if words[:1] and words[0] in set(parsers.COMMANDS) - {"run"}:
        assert parsers.parse(words).command == words[0]
        return
    assert command_line.main([*words, "--dry-run", "--out", str(tmp_path)]) == 0
    assert "to train" in capsys.readouterr().out


@pytest.mark.parametrize("block", code("docs/loop.md", "python"))
def test_code_runs(block: str) -> None:
    names: dict[str, object] = {}
    exec(compile(block, "loop.md", "exec"), names)
    assert {"weighter", "step_losses"} & set(names)


# ---- the difference to plain PyTorch ---------------------------------------------------------------------------------

K = 3


def micro_batches(seed: int) -> list[tuple[Tensor, Tensor]]:
    """Four micro-batches of tokens that belong to tasks; the step may lack the last task."""
    draw = torch.Generator().manual_seed(seed)
    tasks = K - 1 if seed % 3 == 2 else K
    sizes = (5, 3, 7, 2)
    return [(torch.randn(n, 4, generator=draw), torch.randint(tasks, (n,), generator=draw)) for n in sizes]


def count_tokens(batch: tuple[Tensor, Tensor]) -> Tensor:
    return torch.bincount(batch[1], minlength=K)


def task_losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    tokens, tasks = batch
    each: Tensor = (model(tokens) - tokens[:, :1]).square().squeeze(-1) * (1.0 + tasks)
    return torch.zeros(K).index_add(0, tasks, each)


def trained(kept: str) -> dict[str, Any]:
    """What is left after the loop of the page, with the lines of the difference that begin so."""
    (diff,) = code("docs/loop.md", "diff")
    program = "\n".join(line[2:] for line in diff.splitlines() if line[:1] in kept)
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    names: dict[str, Any] = {
        "K": K,
        "count_tokens": count_tokens,
        "loader": [micro_batches(seed) for seed in range(12)],
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.05),
        "task_losses": task_losses,
        "weighting": weighting,
    }
    program = program.replace("window=100", "window=3")
    exec(compile(program, "loop.md", "exec"), names)
    return names


def by_whole_batches(weights_of: Callable[[Observation], Tensor], update: Callable[[Observation], None]) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for seed in range(12):
        parts = micro_batches(seed)
        batch = (torch.cat([tokens for tokens, _ in parts]), torch.cat([tasks for _, tasks in parts]))
        counts = count_tokens(batch)
        losses = task_losses(model, batch) / counts.clamp(min=1)
        now = Observation(losses=losses, counts=counts)
        optimizer.zero_grad()
        weighting.total(weights_of(now), losses, counts).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        update(now)
    return model


def assert_same_parameters(found: nn.Module, expected: nn.Module) -> None:
    torch.testing.assert_close(dict(found.named_parameters()), dict(expected.named_parameters()))


def test_the_difference_is_five_lines_that_train_as_whole_batches_do() -> None:
    (diff,) = code("docs/loop.md", "diff")
    assert [line[:1] for line in diff.splitlines()].count("+") == 5
    weighter = weighting.create("dwa", num_tasks=K, window=3)
    expected = by_whole_batches(weighter.weights, weighter.update)
    found = trained(" +")
    assert_same_parameters(found["model"], expected)
    # Losses in float32, whose sums round otherwise over two batches than over one.
    torch.testing.assert_close(found["weighter"].state_dict(), weighter.state_dict(), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found["weighter"].current, torch.ones(K, dtype=torch.float64)), "the weights were to move"


def test_without_the_difference_it_is_the_plain_sum() -> None:
    expected = by_whole_batches(lambda now: (torch.as_tensor(now.counts) > 0).float(), lambda now: None)
    assert_same_parameters(trained(" -")["model"], expected)


# ---- blocks, lists and links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NUMBERED)
def test_blocks_are_as_they_would_be_written_today(name: str) -> None:
    page = text(name)
    assert page.count("<!-- begin ") == page.count("<!-- end -->") > 0
    assert BLOCKS["fill"](page) == page, "make readme"


def test_a_changed_block_would_be_found_and_an_unknown_one_is_an_error() -> None:
    page = text("README.md")
    assert BLOCKS["fill"](re.sub(r"\d+ ±", "99 ±", page)) == page
    with pytest.raises(KeyError, match="nonsense"):
        BLOCKS["fill"]("<!-- begin nonsense -->\n<!-- end -->")


def test_every_method_problem_command_and_option_is_on_its_page() -> None:
    assert [name for name in weighting.names() if f"`{name}`" not in text("README.md")] == []
    for names in (METHOD_PAGES, LISTED):
        assert [name for name in names if not re.search(rf"^\| \[?`{name}`", text("README.md"), flags=re.MULTILINE)] == []
    page = text("docs/cli.md")
    sections = {part.partition("\n")[0]: part for part in page.split("\n### ")[1:]}
    assert list(sections) == list(parsers.COMMANDS)
    for name, section in sections.items():
        assert [option for option in parsers.options_of(name) if option != "--help" and option not in section] == []


def test_ci_calls_the_documented_test_command() -> None:
    assert "make test" in text(".ci/run").splitlines()


@pytest.mark.parametrize("name", PAGES)
def test_linked_files_exist(name: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text(name)) if not link.startswith("http")]
    assert [link for link in links if not ((ROOT / name).parent / link).exists()] == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    """Strict: a link or anchor that leads nowhere is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert (done.returncode, done.stderr) == (0, "")
    pages = {
        path.relative_to(tmp_path / "site").as_posix(): path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")
    }
    assert {"index.html", "cli.html", "results.html", "data.html", "architecture.html"} <= set(pages)
    assert "<math" in pages["methods/coba.html"]
    assert [
        name for name in weighting.names() if f'id="{weighting.METHODS[name].__module__}' not in pages["api/methods.html"]
    ] == []
    assert [name for name, page in pages.items() if "arithmatex" in page] == []
    prose = {name: re.sub(r"<(pre|code|script)\b.*?</\1>", "", page, flags=re.DOTALL) for name, page in pages.items()}
    assert [name for name, text in prose.items() if re.search(r"\[[\w-]+(/[\w-]+)+\]", text)] == []
    for package in (weighting, benchmarks):
        page = pages[f"api/{package.__name__}.html"]
        shown = set(re.findall(r'<h\d id="[\w.]*?(\w+)"', page))
        assert [name for name in package.__all__ if name not in {*shown, "__version__"}] == []
    fetched = re.compile(r"""<(?:script|link|img)[^>]*(?:src|href)=["']?(https?://[^"' >]+)""")
    assert {link for page in pages.values() for link in fetched.findall(page)} == set()


def test_the_full_suite_is_the_suites_of_the_four_problems() -> None:
    def keys(suite: str) -> set[str]:
        return {run.key for run in make_plan(read_suite(suite), Filters(), "cpu").runs}

    parts = ("multidigits", "code_lm", "gradnorm_toy", "famo_toy")
    assert keys("full") == set().union(*(keys(part) for part in parts))


def test_the_reference_is_small_and_complete() -> None:
    files = [path for folder in ("results", "plots") for path in (ROOT / folder / "reference").rglob("*")]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 15e6
    for suite in ("quick", "full"):
        folder = REFERENCE / suite
        planned = {run.key for run in make_plan(read_suite(suite), Filters(), "cpu").runs}
        assert planned <= {run.record.key for run in read_all(folder) if isinstance(run, Run)}
    assert [suite for suite in REFERENCE.iterdir() if list(run_folders(suite))] == []
