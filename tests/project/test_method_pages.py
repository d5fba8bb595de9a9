"""The pages of the methods say what the code says: claims, hyperparameters, defaults and search spaces."""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Mapping, Sequence

import pytest
from places import REFERENCE, ROOT

from weighting import METHODS, Claim, Weighter, citation, family
from weighting._build import hyperparameters_of

PAGES = ROOT / "docs" / "methods"
OTHER_PAGES = {"README", "conformance"}
HEADINGS = [
    "Idea",
    "Update rule",
    "Needs and cost",
    "Claims",
    "Hyperparameters",
    "Variants",
    "Departures",
    "Known to fail",
    "Citation",
]
OWN_PAGE = {name: kind for name, kind in METHODS.items() if kind.variant_of is None}
VARIANTS = {name: kind for name, kind in METHODS.items() if kind.variant_of is not None}
LISTED = pytest.mark.parametrize(("name", "kind"), OWN_PAGE.items(), ids=OWN_PAGE)

Row = Mapping[str, str]


def sections(text: str) -> dict[str, str]:
    """Heading -> text, in the order of the page."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(text: str) -> list[Row]:
    """The rows of the first Markdown table; none without a table. Raises ValueError on a row of another length."""
    found = re.search(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    lines = [line.strip() for line in found.group().splitlines()] if found else []
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    if len(rows) < 2 or not all(set(cell) == {"-"} for cell in rows[1]):
        return []
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def unquoted(cell: str) -> str:
    found = re.fullmatch(r"`([^`]+)`", cell)
    assert found, f"expected one piece of code, found {cell!r}"
    return found.group(1)


def check_claims(page: str, claims: Claim) -> None:
    written = [unquoted(row["claim"]) for row in table(sections(page)["Claims"])]
    assert len(written) == len(set(written))
    assert set(written) == {claim.label for claim in claims}


def check_hyperparameters(page: str, defaults: Mapping[str, object], search: Mapping[str, Sequence[object]]) -> None:
    rows = table(sections(page)["Hyperparameters"])
    assert [unquoted(row["name"]) for row in rows] == list(defaults)
    for row in rows:
        name, default = unquoted(row["name"]), ast.literal_eval(unquoted(row["default"]))
        assert (type(default), default) == (type(defaults[name]), defaults[name])
        space = row["search space"]
        found = None if space == "none" else ast.literal_eval(f"({unquoted(space)},)")
        assert found == (tuple(search[name]) if name in search else None)


def own_hyperparameters(kind: type[Weighter]) -> dict[str, object]:
    return {name: default for name, default in hyperparameters_of(kind).items() if name not in ("losses_from", "prior")}


def read(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def test_every_listed_method_has_a_page_and_no_other() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} - OTHER_PAGES == set(OWN_PAGE)


@LISTED
def test_headings(name: str, kind: type[Weighter]) -> None:
    parts = sections(read(name))
    varied = name in {variant.variant_of for variant in VARIANTS.values()}
    assert list(parts) == [heading for heading in HEADINGS if heading != "Variants" or varied]
    assert [heading for heading, text in parts.items() if not text.strip()] == []


@LISTED
def test_symbols_are_in_the_code(name: str, kind: type[Weighter]) -> None:
    files = (ROOT / "weighting" / f"{name}.py", ROOT / "weighting" / "contract.py")
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    rows = table(sections(read(name))["Update rule"])
    assert rows
    for row in rows:
        words = re.findall(r"`([\w.]+)`", row["name in the code"])
        assert words
        assert [word for word in words if not re.search(rf"\b{word.rpartition('.')[2]}\b", source)] == []


@LISTED
def test_claims(name: str, kind: type[Weighter]) -> None:
    check_claims(read(name), kind.claims)


@LISTED
def test_hyperparameters(name: str, kind: type[Weighter]) -> None:
    check_hyperparameters(read(name), own_hyperparameters(kind), kind.search)


def check_variant(page: str, kind: type[Weighter], base: type[Weighter]) -> None:
    (row,) = [row for row in table(sections(page)["Variants"]) if unquoted(row["name"]) == kind.name]
    for column, claims in (("further claims", kind.claims & ~base.claims), ("claims not made", base.claims & ~kind.claims)):
        written = [] if row[column] == "none" else [unquoted(cell.strip()) for cell in row[column].split(",")]
        assert sorted(written) == sorted(claim.label for claim in claims)
    own, others = own_hyperparameters(kind), own_hyperparameters(base)
    more = [f"also `{name}` = `{value!r}`" for name, value in own.items() if name not in others]
    fewer = [f"without `{name}`" for name in others if name not in own]
    assert row["hyperparameters"] == (", ".join([*more, *fewer]) or "the same")
    assert {name: value for name, value in own.items() if name in others}.items() <= others.items()


@pytest.mark.parametrize(("name", "kind"), VARIANTS.items(), ids=VARIANTS)
def test_variants(name: str, kind: type[Weighter]) -> None:
    check_variant(read(str(kind.variant_of)), kind, METHODS[str(kind.variant_of)])


def test_a_wrong_variant_would_be_found() -> None:
    kind, base, page = METHODS["coba_fixed_mix"], METHODS["coba"], read("coba")
    for right, wrong in (("also `mix` = `0.5`", "the same"), ("`turned_task_loses_weight`, `div", "`div")):
        assert page.count(right) == 1
        with pytest.raises(AssertionError):
            check_variant(page.replace(right, wrong), kind, base)


@LISTED
def test_probes_are_named(name: str, kind: type[Weighter]) -> None:
    written = re.findall(r"^Probes, (?:.*?): (.*)$", sections(read(name))["Update rule"].replace("{probes: true}", ""), re.M)
    named = [probe for line in written for probe in re.findall(r"`(\w+)`", line)]
    assert named == list(kind(3).probes())


@LISTED
def test_guards_are_named(name: str, kind: type[Weighter]) -> None:
    departures = sections(read(name))["Departures"]
    guards = {guard for other in METHODS.values() if name in (other.name, other.variant_of) for guard in other.guards}
    assert [guard for guard in guards - Weighter.guards.keys() if f"`{guard}`" not in departures] == []


@LISTED
def test_citation(name: str, kind: type[Weighter]) -> None:
    (entry,) = re.findall(r"```bibtex\n(@\w+\{\w+,.*?\n\})\n```", sections(read(name))["Citation"], flags=re.DOTALL)
    assert [
        field for field in ("title", "author", "year") if not re.search(rf"^ +{field} += \{{", entry, re.MULTILINE)
    ] == []
    assert entry.count("{") == entry.count("}")
    assert {citation(other) for other, variant in METHODS.items() if name in (other, variant.variant_of)} == {entry}


@LISTED
def test_measured_ratios_are_those_of_the_reference(name: str, kind: type[Weighter]) -> None:
    """Numbers of three decimals beside the link to the cost page, for the method and its settings there."""
    text = sections(read(name))["Needs and cost"]
    page = (REFERENCE / "overhead" / "overhead.md").read_text(encoding="utf-8")
    rows = table(page.replace(":", "").replace("\\", ""))
    measured = [row["ratio"] for row in rows if family(row["weighter"].partition("[")[0]) == name]
    assert sorted(map(float, re.findall(r"\b\d\.\d{3}\b", text))) == sorted(map(float, measured))


@LISTED
def test_costs_beside_uniform_are_those_of_the_suite_full(name: str, kind: type[Weighter]) -> None:
    """Numbers of two decimals, each with its problem."""
    text = sections(read(name))["Needs and cost"]
    for ratio, problem in re.findall(r"\b(\d\.\d\d) on `(\w+)`", text):
        with (REFERENCE / "full" / "tables" / f"{problem}_overview.csv").open(encoding="utf-8", newline="") as file:
            (row,) = (row for row in csv.DictReader(file) if row["method"] == name)
        assert ratio == f"{float(row['relative_seconds']):.2f}"


def test_linked_files_exist() -> None:
    pages = [*PAGES.glob("*.md"), ROOT / "examples" / "README.md"]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))]
    assert links
    assert [link for page, link in links if not link.startswith("http") and not (page.parent / link).exists()] == []


def test_index_lists_every_method_in_order() -> None:
    index = table(read("README"))
    assert [row["name"] for row in index] == [
        f"[{name}]({family(name)}.md{'#variants' * (name in VARIANTS)})" for name in METHODS
    ]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("| `temperature` | `2.0` |", "| `temperature` | `1.0` |"),
        ("0.5, 1.0, 2.0, 5.0", "0.5, 1.0"),
        ("| `window` |", "| `w` |"),
    ],
)
def test_a_wrong_hyperparameter_would_be_found(right: str, wrong: str) -> None:
    kind, page = METHODS["dwa"], read("dwa")
    assert page.count(right) == 1
    with pytest.raises(AssertionError):
        check_hyperparameters(page.replace(right, wrong), own_hyperparameters(kind), kind.search)


def test_a_wrong_claim_would_be_found() -> None:
    with pytest.raises(AssertionError):
        check_claims(read("dwa"), METHODS["dwa"].claims | Claim.SUMS_TO_ONE)
    with pytest.raises(AssertionError):
        check_claims(read("dwa"), METHODS["dwa"].claims & ~Claim.NONNEGATIVE)
