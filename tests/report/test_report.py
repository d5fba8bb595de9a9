"""The report: hand-computed numbers, honest gaps, files that come out the same, pictures that show every method."""

from __future__ import annotations

import io
import math
import shutil
from pathlib import Path

import fake_runs
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.analysis import delta_m, statistics
from benchmarks.analysis import scores as columns
from benchmarks.analysis.loading import load
from benchmarks.analysis.section_tables import section_tables
from benchmarks.analysis.sections import Section, sections
from benchmarks.analysis.suite_tables import suite_tables
from benchmarks.analysis.table import Column, Table
from benchmarks.contract import DATA_RULE, Training
from benchmarks.records.schema import Fingerprints, MetricInfo, Run
from benchmarks.report import formatting
from benchmarks.report.figures import curves, landscape, overview, style, weights
from benchmarks.report.palette import method_styles, task_styles
from benchmarks.report.suite_report import write_report

# NYUv2 as printed in FAMO (Liu et al. 2023): mIoU, PixAcc, AbsErr, RelErr, Mean, Median, 11.25, 22.5, 30.
NYU = {
    "STL": (38.30, 63.76, 0.6754, 0.2780, 25.01, 19.21, 30.14, 57.20, 69.15),
    "LS": (39.29, 65.33, 0.5493, 0.2263, 28.15, 23.96, 22.09, 47.50, 61.08),
    "SI": (38.45, 64.27, 0.5354, 0.2201, 27.60, 23.37, 22.53, 48.57, 62.32),
    "RLW": (37.17, 63.77, 0.5759, 0.2410, 28.27, 24.18, 22.26, 47.05, 60.62),
    "DWA": (39.11, 65.31, 0.5510, 0.2285, 27.61, 23.18, 24.17, 50.18, 62.39),
    "UW": (36.87, 63.17, 0.5446, 0.2260, 27.04, 22.61, 23.54, 49.05, 63.65),
    "MGDA": (30.47, 59.90, 0.6070, 0.2555, 24.88, 19.45, 29.18, 56.88, 69.36),
    "PCGrad": (38.06, 64.64, 0.5550, 0.2325, 27.41, 22.80, 23.86, 49.83, 63.14),
    "GradDrop": (39.39, 65.12, 0.5455, 0.2279, 27.48, 22.96, 23.38, 49.44, 62.87),
    "CAGrad": (39.79, 65.49, 0.5486, 0.2250, 26.31, 21.58, 25.61, 52.36, 65.58),
    "IMTL-G": (39.35, 65.60, 0.5426, 0.2256, 26.02, 21.19, 26.20, 53.13, 66.24),
    "Nash-MTL": (40.13, 65.93, 0.5261, 0.2171, 25.26, 20.08, 28.40, 55.47, 68.15),
    "FAMO": (38.88, 64.90, 0.5474, 0.2194, 25.06, 19.57, 29.21, 56.61, 68.98),
}
HIGHER = (True, True, False, False, False, False, True, True, True)
OWNERS = ("segmentation",) * 2 + ("depth",) * 2 + ("normals",) * 5
ACCURACY = [MetricInfo(key=f"{t}/acc", name="acc", task=t, higher_is_better=True, primary=True) for t in ("left", "right")]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_runs.write_suite(tmp_path_factory.mktemp("suite") / "fake", fake_runs.suite())


def scored(method: str, seed: int, left: float, right: float, **more: object) -> Run:
    """A run with given accuracies."""
    metrics = {"left/acc": left, "right/acc": right}
    return fake_runs.make(method, seed, infos=ACCURACY, metrics=metrics, **more)  # type: ignore[arg-type]


def single(task: str, seed: int, value: float, **more: object) -> Run:
    """A single-task run with a given accuracy."""
    infos = [info for info in ACCURACY if info.task == task]
    more = {"tasks": (task,), "role": "single_task", **more}
    return fake_runs.make("uniform", seed, infos=infos, metrics={f"{task}/acc": value}, **more)  # type: ignore[arg-type]


def one(runs: list[Run]) -> Section:
    found, _ = sections(runs)
    assert len(found) == 1
    return found[0]


class TestStatistics:
    @pytest.mark.parametrize(
        ("method", "metrics", "tasks"), [("LS", 5.59, -0.88), ("Nash-MTL", -4.05, -7.65), ("FAMO", -4.10, -6.79)]
    )
    def test_delta_m_under_both_conventions(self, method: str, metrics: float, tasks: float) -> None:
        changes = delta_m.changes_percent(np.array(NYU[method]), np.array(NYU["STL"]), HIGHER)
        assert float(delta_m.over_metrics(changes)) == pytest.approx(metrics, abs=0.006)
        assert float(delta_m.over_tasks(changes, OWNERS)) == pytest.approx(tasks, abs=0.006)

    def test_mean_ranks_of_the_famo_paper(self) -> None:
        methods = [name for name in NYU if name != "STL"]
        ranks = dict(zip(methods, statistics.mean_ranks(np.array([NYU[name] for name in methods]), HIGHER), strict=True))
        assert {name: round(rank, 2) for name, rank in ranks.items()} == {
            "LS": 8.89,
            "SI": 7.89,
            "RLW": 11.22,
            "DWA": 7.67,
            "UW": 7.44,
            "MGDA": 6.00,
            "PCGrad": 8.00,
            "GradDrop": 7.00,
            "CAGrad": 4.56,
            "IMTL-G": 3.78,
            "Nash-MTL": 2.11,
            "FAMO": 3.44,
        }

    def test_ties_share_their_mean_rank(self) -> None:
        values = np.array([[1.0, 5.0], [1.0, 7.0], [2.0, 6.0]])
        assert statistics.mean_ranks(values, [False, True]).tolist() == [2.25, 1.25, 2.5]

    def test_mean_and_error(self) -> None:
        mean, error = statistics.mean_and_error(np.array([1.0, 2.0, 6.0]))
        assert mean == 3.0
        assert error == pytest.approx(math.sqrt(7 / 3))
        mean, error = statistics.mean_and_error(np.array([4.0]))
        assert mean == 4.0
        assert math.isnan(error)
        assert math.isnan(statistics.mean_and_error(np.array([1.0, math.nan]))[0])
        assert math.isnan(statistics.mean_and_error(np.array([]))[0])

    def test_negative_and_zero_baselines(self) -> None:
        changes = delta_m.changes_percent(np.array([-3.0, 1.0]), np.array([-2.0, 0.0]), [False, False])
        assert changes[0] == -50.0
        assert math.isnan(changes[1])

    def test_convergence_by_hand(self) -> None:
        steps = np.array([0, 10, 20, 30, 40])
        # Replica 1: lowest at 10 and at 40. Replica 2: lowest at 20 (twice, the first counts) and at 20.
        first = np.array([[9.0, 9.0], [2.0, 8.0], [3.0, 7.0], [4.0, 6.0], [4.0, 5.0]])
        second = np.array([[9.0, 9.0], [8.0, 8.0], [2.0, -4.0], [2.0, 6.0], [3.0, -2.0]])
        losses = np.stack([first, second], axis=1)
        assert statistics.convergence_spread(steps, losses, 40) == pytest.approx((30 / 40 + 0) / 2)
        # At step 40: (4-2)/2 = 1 and 0 in the first replica, (3-2)/2 and (-2+4)/4 in the second.
        assert statistics.price_of_one_checkpoint(steps, losses, 40) == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
        assert math.isnan(statistics.price_of_one_checkpoint(steps, losses, 35))
        assert math.isnan(statistics.convergence_spread(steps[:0], losses[:0], 40))

    def test_mean_weight_leaves_out_the_last_row(self) -> None:
        weights_ = np.array([[[1.0, 3.0]], [[2.0, 4.0]], [[math.nan, math.nan]]])
        assert statistics.mean_weight(weights_) == 2.5

    def test_windows_and_band(self) -> None:
        assert statistics.windows(np.arange(5.0), 3).tolist() == [0.5, 2.5, 4.0]
        mean, error = statistics.band(np.array([[1.0, 2.0], [3.0, 2.0]]))
        assert mean.tolist() == [2.0, 2.0]
        assert error.tolist() == [1.0, 0.0]
        assert np.isnan(statistics.band(np.ones((1, 2)))[1]).all()


class TestTables:
    def test_delta_m_is_paired_by_seed(self) -> None:
        runs = [scored("uniform", 0, 0.9, 0.5), scored("uniform", 1, 0.6, 0.8)]
        runs += [single("left", 0, 0.8), single("left", 1, 0.5), single("right", 0, 0.5), single("right", 1, 1.0)]
        found = columns.scores(one(runs))
        # Seed 0: -12.5 and 0; seed 1: -20 and +20. Against mean baselines both would differ.
        assert found.methods[columns.DELTA_METRICS].tolist() == pytest.approx([-6.25, 0.0])
        overview_ = section_tables(one(runs)).overview.frame
        assert overview_[columns.DELTA_METRICS].tolist() == pytest.approx([-3.125])
        assert overview_[columns.DELTA_METRICS + ".se"].tolist() == pytest.approx([3.125])
        assert not found.warnings

    def test_missing_or_failed_baseline_leaves_a_gap_and_says_which(self) -> None:
        runs = [scored("uniform", 0, 0.9, 0.5), scored("uniform", 1, 0.6, 0.8), single("left", 0, 0.8)]
        runs += [single("left", 1, 0.5), single("right", 0, 0.5), single("right", 1, 1.0, state="crashed", reason="no luck")]
        tables = section_tables(one(runs))
        assert tables.overview.frame[columns.DELTA_METRICS].isna().all()
        assert any("right (seed 1)" in warning for warning in tables.scores.warnings)
        assert formatting.MISSING in formatting.to_terminal(tables.overview)
        without = section_tables(one(runs[:2]))
        assert without.scores.warnings == ("pictures: no single-task runs, so no Δm",)

    def test_one_seed_shows_plain_values(self) -> None:
        tables = section_tables(one([scored("uniform", 0, 0.9, 0.5), scored("coba", 0, 0.8, 0.6)]))
        for table in (tables.overview, *tables.others):
            for text in (formatting.to_markdown(table), formatting.to_latex(table), formatting.to_terminal(table)):
                assert "nan" not in text
                assert "±" not in "\n".join(line for line in text.splitlines() if "uniform" in line and "1/1" in line)

    def test_failures_are_rows_and_show_in_n(self) -> None:
        runs = [scored(method, seed, 0.9, 0.5) for method in ("uniform", "coba") for seed in (0, 1)]
        runs += [scored("famo", 0, 0.99, 0.99)]
        runs += [scored("famo", 1, 0, 0, state="diverged", failed_step=120, reason="loss of task left is nan")]
        tables = section_tables(one(runs))
        frame = tables.overview.frame.set_index("method")
        assert frame["finished"].to_dict() == {"uniform": "2/2", "famo": "1/2", "coba": "2/2"}
        assert frame["mean_rank"].isna().to_dict() == {"uniform": False, "famo": True, "coba": False}
        failures = next(table for table in tables.others if table.name == "pictures_failures")
        assert failures.frame[["method", "seed", "state", "step"]].to_numpy().tolist() == [["famo", 1, "diverged", 120]]
        assert "loss of task left is nan" in formatting.to_markdown(failures)
        # The only run of famo is better than all, but half of its seeds are missing: it is not marked.
        famo = tables.overview.frame.index[tables.overview.frame["method"] == "famo"][0]
        assert all(place[0] != famo for place in tables.overview.best())

    def test_method_without_a_finished_run(self) -> None:
        runs = [scored("uniform", 0, 0.9, 0.5), scored("famo", 0, 0, 0, state="out_of_memory", trajectory=pd.DataFrame())]
        section = one(runs)
        line = next(line for line in formatting.to_terminal(section_tables(section).overview).splitlines() if "famo" in line)
        assert "0/1" in line
        assert line.split()[2:] == [formatting.MISSING] * len(line.split()[2:])

    def test_fingerprint_mismatch_is_left_out(self) -> None:
        other = Fingerprints(initial_parameters="p0", data="OTHER", data_order="o0")
        runs = [scored("uniform", 0, 0.9, 0.5), scored("coba", 0, 0.8, 0.5), scored("famo", 0, 1.0, 1.0, fingerprints=other)]
        runs += [single("left", 0, 0.8, fingerprints=other)]
        found, warnings = sections(runs)
        assert set(found[0].runs) == {("uniform", 0), ("coba", 0)}
        assert not found[0].single
        assert len(warnings) == 2
        assert any(runs[2].record.key in warning and "data differ" in warning for warning in warnings)
        # Only a single-task run can be mended by its problem's own code.
        assert [DATA_RULE in warning for warning in warnings] == [runs[3].record.key in warning for warning in warnings]
        # Other tasks have other parameters and batches: those of a single-task run are not held against it.
        fine = Fingerprints(initial_parameters="x", data="d0", data_order="x")
        assert one([*runs[:2], single("left", 0, 0.8, fingerprints=fine)]).single

    def test_other_settings_are_other_sections(self) -> None:
        long = Training(steps=800, log_every=10, evaluate_every=20)
        runs = [scored("uniform", 0, 0.9, 0.5), scored("uniform", 0, 0.8, 0.5, training=long)]
        found, warnings = sections(runs)
        assert [section.name for section in found] == ["pictures[steps=400]", "pictures[steps=800]"]
        assert warnings

    def test_same_label_for_other_hyperparameters(self) -> None:
        runs = [scored("coba", 0, 0.9, 0.5, hyperparameters={"a": value}) for value in (1, 2)]
        found, warnings = sections(runs)
        assert len(found[0].methods) == 2
        assert any("coba" in warning for warning in warnings)

    def test_cost_is_the_median_of_the_ratios_to_uniform(self) -> None:
        """One busy period slowed the runs of the last seed, another one run of the second."""
        seconds = {"uniform": (1.0, 2.0, 90.0), "coba": (1.5, 90.0, 90.0)}
        runs = [scored(name, seed, 1, 1, seconds=value) for name in seconds for seed, value in enumerate(seconds[name])]
        frame = section_tables(one(runs)).overview.frame.set_index("method")
        assert frame["relative_seconds"].to_dict() == {"uniform": 1.0, "coba": 1.5}
        alone = section_tables(one([run for run in runs if run.label == "coba"]))
        assert columns.SECONDS in [column.key for column in alone.overview.columns]


class TestFormatting:
    @pytest.mark.parametrize(
        ("mean", "error", "text"),
        [(0.12345, 0.0123, "0.123 ± 0.012"), (-0.0001, 0.5, "0.00 ± 0.50"), (123.4, math.nan, "123.4"), (3, math.nan, "3")],
    )
    def test_digits(self, mean: float, error: float, text: str) -> None:
        frame = pd.DataFrame({"x": [mean], "x.se": [error]})
        assert formatting.cells(Table("t", "t", "", (Column("x", "x"),), frame)) == [[text]]

    def test_names_of_users_are_escaped(self) -> None:
        frame = pd.DataFrame({"method": ["a|b_c$%"], "x": [1.0]})
        table = Table("t", "t", "50 %", (Column("method", "method"), Column("x", "x", "lower")), frame)
        assert r"a\|b_c$%" in formatting.to_markdown(table)
        assert r"a\textbar{}b\_c\$\% & 1 \\" in formatting.to_latex(table)

    def test_terminal_is_at_most_140_wide(self, suite: Path) -> None:
        found, _ = sections(load(suite).runs)
        for section in found:
            text = formatting.to_terminal(section_tables(section).overview)
            assert max(map(len, text.splitlines())) <= 140
            assert all(method in text for method in section.methods)

    def test_best_is_marked_in_the_direction_of_the_metric(self) -> None:
        frame = pd.DataFrame({"method": ["a", "b"], "loss": [1.0, 2.0], "accuracy": [1.0, 2.0]})
        shown = (Column("method", "method"), Column("loss", "loss", "lower"), Column("accuracy", "accuracy", "higher"))
        table = Table("t", "t", "", shown, frame, ranked=(0, 1))
        assert table.best() == {(0, 1), (1, 2)}
        assert "loss ↓ | accuracy ↑" in formatting.to_markdown(table)


class TestFiles:
    def test_damaged_folders_are_listed_and_left_alone(self, suite: Path, tmp_path: Path) -> None:
        folder = tmp_path / "fake"
        shutil.copytree(suite, folder)
        runs = sorted((folder / "runs").iterdir())
        (runs[0] / "run.json").write_text("{")
        (runs[1] / "trajectory.parquet").write_bytes(b"PAR1 no more")
        (runs[2] / "run.json").unlink()
        (folder / "runs" / "empty").mkdir()
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        loaded = load(folder)
        assert {each.key for each in loaded.unusable} == {run.name for run in runs[:3]} | {"empty"}
        assert len(loaded.runs) == len(runs) - 3
        assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def test_empty_and_missing_suites(self, tmp_path: Path) -> None:
        report = write_report(suite_tables(tmp_path / "nothing"), tmp_path / "plots")
        assert "No usable run" in report.text
        assert (tmp_path / "nothing" / "report.md").is_file()

    def test_only_the_keys_of_the_plan(self, suite: Path) -> None:
        keys = [run.record.key for run in load(suite).runs[:3]]
        assert [run.record.key for run in load(suite, keys).runs] == keys

    @pytest.mark.slow
    def test_report_is_complete_and_the_same_again(self, tmp_path: Path) -> None:
        suite = fake_runs.write_suite(
            tmp_path / "results" / "fake", fake_runs.suite(languages=3, methods=fake_runs.METHODS[:4])
        )
        first = write_report(suite_tables(suite), tmp_path / "plots" / "fake")
        made = {path: path.read_bytes() for path in first.paths}
        for path in made:
            path.unlink()
        assert write_report(suite_tables(suite), tmp_path / "plots" / "fake") == first
        assert {path: path.read_bytes() for path in first.paths} == made
        everything = {path for folder in (suite, tmp_path / "plots") for path in folder.rglob("*") if path.is_file()}
        assert {path for path in everything if "runs" not in path.parts} == set(made)
        names = {path.name for path in first.paths}
        for problem in ("pictures", "languages", "famo_toy"):
            assert {f"{problem}_curves.png", f"{problem}_weights.png", f"{problem}_cost.tex"} <= names
        assert {"overview.png", "famo_toy_landscape.png", "report.md", "pictures_failures.csv"} <= names
        assert "gradnorm, seed 2: diverged at step 120: loss of task left is nan" in first.text
        page = (suite / "report.md").read_text()
        assert "(<../../plots/fake/pictures_curves.png>)" in page
        assert {path.suffix for path in made} == {".md", ".csv", ".tex", ".txt", ".png"}
        assert max(map(len, made.values())) < 500_000

    def test_unwritable_folder_is_an_os_error(self, suite: Path, tmp_path: Path) -> None:
        (tmp_path / "plots").write_text("a file where the folder should be")
        with pytest.raises(OSError, match="plots"):
            write_report(suite_tables(suite), tmp_path / "plots")


@pytest.fixture(scope="module")
def figures(suite: Path) -> dict[str, Figure]:
    found, _ = sections(load(suite).runs)
    tables = [section_tables(section) for section in found]
    looks = method_styles(method for section in found for method in section.methods)
    made: dict[str, Figure | None] = {}
    with style.settings():
        for section in found:
            made[f"{section.name} curves"] = curves.figure(section, looks)
            made[f"{section.name} weights"] = weights.figure(section)
            made[f"{section.name} landscape"] = landscape.figure(section, looks)
        made["overview"] = overview.figure(tables, looks)
        shown = {name: figure for name, figure in made.items() if figure is not None}
        for figure in shown.values():
            figure.canvas.draw()
    return shown


@pytest.mark.slow
class TestPictures:
    def test_curves_have_a_line_for_every_method(self, figures: dict[str, Figure]) -> None:
        for name, methods in (("pictures", fake_runs.METHODS), ("languages", (*fake_runs.METHODS, fake_runs.VARIANT))):
            for axis in figures[f"{name} curves"].axes:
                assert {*methods, "STL"} == {label for label in labels(axis) if not label.startswith("_")}
        assert "_failed gradnorm" in labels(figures["pictures curves"].axes[0])

    def test_weights_have_a_panel_for_every_method_and_a_line_for_every_task(self, figures: dict[str, Figure]) -> None:
        axes = figures["languages weights"].axes
        assert len(axes) == len(fake_runs.METHODS) + 1
        assert all(len(labels(axis)) == 10 for axis in axes)

    def test_landscape_has_five_paths_and_the_front(self, figures: dict[str, Figure]) -> None:
        axes = figures["famo_toy landscape"].axes
        assert len(axes) == len(fake_runs.METHODS)
        for axis in axes:
            assert [labels(axis).count(label) for label in ("_path", "_start", "_end", "_front")] == [5, 5, 5, 1]
        assert "pictures landscape" not in figures

    def test_overview_has_a_point_for_every_method(self, figures: dict[str, Figure]) -> None:
        axes = figures["overview"].axes
        assert len(axes) == 2
        assert all(set(fake_runs.METHODS) <= set(labels(axis)) for axis in axes)

    def test_legends_cover_no_axes_and_all_is_inside(self, figures: dict[str, Figure]) -> None:
        for figure in figures.values():
            legend = figure.legends[0].get_window_extent()
            tight = [axis.get_tightbbox() for axis in figure.axes]
            assert not any(box is not None and legend.overlaps(box) for box in tight)
            assert figure.bbox.contains(*legend.min)
            assert figure.bbox.contains(*legend.max)
            assert figure.get_figwidth() in (style.SINGLE, style.DOUBLE)

    def test_a_picture_of_few_colours_is_the_one_that_was_drawn(self, suite: Path) -> None:
        """Of the most colourful one no pixel changes by more than eyes tell apart, and what is white stays white."""
        section = next(each for each in sections(load(suite).runs)[0] if each.name == "languages")
        with style.settings():
            figure = weights.figure(section)
            assert figure is not None
            raw = io.BytesIO()
            figure.draw_without_rendering()
            # Made twice, a layout moves by a hair.
            figure.set_layout_engine("none")
            figure.savefig(raw, format="rgba")
            width, height = figure.canvas.get_width_height()
            drawn = np.frombuffer(raw.getvalue(), np.uint8).reshape(height, width, 4)[..., :3].astype(int)
            png = style.render(figure)
        with Image.open(io.BytesIO(png)) as picture:
            assert (picture.format, picture.mode, picture.info["dpi"]) == ("PNG", "P", pytest.approx((200, 200), abs=0.1))
            shown = np.asarray(picture.convert("RGB")).astype(int)
        assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 20 * len(np.unique(shown.reshape(-1, 3), axis=0))
        difference = np.abs(shown - drawn).max(axis=-1)
        assert difference.max() <= 32
        assert difference.mean() < 2
        white = (drawn == 255).all(axis=-1)
        assert white.mean() > 0.5
        assert not difference[white].any()

    def test_a_method_that_explodes_does_not_flatten_the_others(self) -> None:
        runs = [scored(method, 0, 0.9, 0.5) for method in ("uniform", "dwa", "coba")]
        wild = scored("famo", 0, 0.9, 0.5)
        wild.trajectory["val_loss"] *= 1000
        section = one([*runs, wild])
        with style.settings():
            figure = curves.figure(section, method_styles(section.methods))
        assert figure is not None
        assert "off scale: famo" in figure.axes[0].get_title()
        assert figure.axes[0].get_ylim()[1] < 10

    def test_variants_of_a_method_keep_its_colour(self) -> None:
        looks = method_styles(["coba", "coba(tau=2)", "coba_mftcoder", "coba@12ab"])
        assert len({look.color for look in looks.values()}) == 1
        assert len({(str(look.dashes), look.marker) for look in looks.values()}) == 4
        assert len({str(look.dashes) for look in looks.values()}) > 1

    def test_styles_are_distinct_and_stay(self) -> None:
        known = method_styles(fake_runs.METHODS)
        more = method_styles([*fake_runs.METHODS, "mine", "static(weights=[1, 2])"])
        assert {label: more[label] for label in known} == known
        looks = [(look.color, look.marker, str(look.dashes)) for look in more.values()]
        assert len(set(looks)) == len(looks)
        tasks = task_styles([str(index) for index in range(10)]).values()
        assert len({look.color for look in tasks}) == 10
        assert not {look.color for look in tasks} & {look.color for look in more.values()}


def labels(axis: Axes) -> list[str]:
    return [str(line.get_label()) for line in axis.get_lines()]
