"""What the documentation says of the code is so: generated parts are current, links lead somewhere, commands and files exist."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from infra.cli import GROUPS
from infra.documents import rendered, sections
from infra.tour import README, steps

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
_CODE = re.compile(r"```[a-z]*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code_in(page: Path) -> Iterator[str]:
    """The lines of code blocks, and what stands in backticks."""
    for block, span in _CODE.findall(page.read_text(encoding="utf-8")):
        yield from (block or span).splitlines()


def anchors_of(page: Path) -> set[str]:
    """The anchors that a page's headings have, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands() -> set[str]:
    """`up`, `audit verify` and so on, hidden ones left out."""
    app = typer.Typer()
    for group in GROUPS:
        importlib.import_module(f"infra.commands.{group}").register(app)
    found = set()
    for name, command in typer.main.get_group(app).commands.items():
        inner = getattr(command, "commands", {})
        found |= {f"{name} {each}" for each in inner} if inner else {name}
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
class TestPage:
    def test_generated_sections_are_the_code(self, page: Path) -> None:
        """`make docs` writes them."""
        text = page.read_text(encoding="utf-8")
        assert rendered(text) == text

    def test_links_lead_somewhere(self, page: Path) -> None:
        broken = []
        for link in _LINK.findall(page.read_text(encoding="utf-8")):
            target, _, anchor = link.partition("#")
            if target.startswith(("http://", "https://")):
                continue
            file = (page.parent / target).resolve() if target else page
            if not file.exists() or (anchor and anchor not in anchors_of(file)):
                broken.append(link)
        assert broken == []

    def test_files_that_are_named_exist(self, page: Path) -> None:
        named = [span for span in code_in(page) if re.fullmatch(r"[a-z_]+(/[\w-]+)*/[\w-]+\.(py|md)", span)]
        assert [span for span in named if not (ROOT / span).is_file()] == []

    def test_commands_that_are_named_exist(self, page: Path) -> None:
        known = commands()
        groups = {name.split()[0] for name in known if " " in name}
        unknown = []
        for line in code_in(page):
            for match in re.finditer(r"(?:^|[ /])brokage ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?", line):
                name = f"{match[1]} {match[2]}" if match[1] in groups else match[1]
                if name not in known:
                    unknown.append(line)
        assert unknown == []

    def test_targets_of_make_that_are_named_exist(self, page: Path) -> None:
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        named = {match[1] for line in code_in(page) if (match := re.match(r"make ([a-z-]+)", line))}
        assert named - targets == set()


def test_every_generated_section_is_shown_somewhere() -> None:
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert {name for name in sections() if f"<!-- generated: {name} -->" not in shown} == set()


def test_every_decision_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs" / "adr").glob("*.md") if f"adr/{page.name}" not in index] == []


def test_the_tour_has_the_answers_that_it_promises() -> None:
    """`tests/e2e/test_tour.py` compares them; here only that none was left empty."""
    silent = [step.command for step in steps(README.read_text(encoding="utf-8")) if not step.output]
    assert [command for command in silent if command.startswith("call ")] == []
