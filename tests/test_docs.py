"""The documentation names every command, option, metric, map and check there is, and no other."""

import re
from pathlib import Path

import pytest
import typer.main

from lungvq.cli import app
from lungvq.result import MAPS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
COMMANDS = typer.main.get_command(app).commands


def read(path):
    return path.read_text(encoding="utf-8")


def section(name):
    """What docs/commands.md says on one command."""
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", read(DOCS / "commands.md"), re.MULTILINE | re.DOTALL)
    assert found, f"docs/commands.md has no section on {name}"
    return found[1]


def flags(command):
    opts = [flag for p in command.params for flag in (*p.opts, *p.secondary_opts)]
    return {flag for flag in opts if flag.startswith("--")} - {"--help"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_documented_and_no_other(name):
    documented = set(re.findall(r"`(--[a-z-]+)", section(name)))
    assert documented == flags(COMMANDS[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name):
    assert COMMANDS[name].help
    assert not [p.name for p in COMMANDS[name].params if not getattr(p, "help", None)]


def test_documented_commands_are_the_commands():
    assert re.findall(r"^## (.*)$", read(DOCS / "commands.md"), re.MULTILINE) == list(COMMANDS)
    table = re.findall(r"^\| `lungvq ([a-z-]+)` \|", read(ROOT / "README.md"), re.MULTILINE)
    assert sorted(table) == sorted(COMMANDS)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in sorted(DOCS.glob("*.md")))])
def test_commands_shown_exist_with_their_options(page):
    code = re.findall(r"^```\w*\n.*?^```$|^ {4}[^\n]*$", read(ROOT / page), re.MULTILINE | re.DOTALL)
    for name, arguments in re.findall(
        r"^(?: {4}|\$ )?lungvq ([a-z][a-z-]+)(.*)$", "\n".join(code), re.MULTILINE
    ):
        assert name in COMMANDS
        assert set(re.findall(r"--[a-z-]+", arguments)) <= flags(COMMANDS[name])


def test_readme_opens_with_one_sentence_and_an_install_line():
    title, sentence, install = read(ROOT / "README.md").split("\n\n")[:3]
    assert title == "# lungvq"
    assert sentence.count(". ") == 0
    assert sentence.endswith(".")
    assert "pip install" in install


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_within_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", read(ROOT / page)):
        assert (ROOT / target).exists(), target


def test_every_map_is_documented_with_its_method():
    documented = dict(
        re.findall(r"^\| `(\w+)` \| [^|]+ \| `([\w@]+)` \|", read(DOCS / "output.md"), re.MULTILINE)
    )
    assert documented == {name: spec.method for name, spec in MAPS.items()}


def test_every_decision_is_listed():
    listed = re.findall(r"^(\d{4}-[a-z-]+)$", read(DOCS / "decisions" / "index.md"), re.MULTILINE)
    assert listed == sorted(p.stem for p in (DOCS / "decisions").glob("0*.md"))


def test_functions_named_by_the_theory_page_exist():
    from importlib import import_module

    table = "\n".join(line for line in read(DOCS / "theory.md").splitlines() if line.startswith("|"))
    named = re.findall(r"`([a-z_.]+)\.(\w+)`", table)
    assert len(named) > 15
    for module, function in named:
        assert hasattr(import_module(f"lungvq.{module}"), function), f"{module}.{function}"


def test_every_phantom_is_in_the_gallery():
    from lungvq.phantom import CASES

    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    for case in CASES:
        assert f"images/gallery/{case}.png" in page
        assert (DOCS / "images" / "gallery" / f"{case}.png").exists()
