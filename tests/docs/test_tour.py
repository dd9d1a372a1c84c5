"""The README's tour, taken with real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import Page
from tests.docs.tour import Shell, Step, normalised, steps


def test_the_tour_prints_what_the_page_says(tmp_path: Path) -> None:
    """Every command of the README, in order, against a real node."""
    shell = Shell(tmp_path)
    try:
        for step in steps(Page.read("README.md").text):
            assert normalised(shell.run(step.command)) == normalised(step.output), step.command
    finally:
        shell.close()


def test_steps_are_commands_with_what_follows_them() -> None:
    """Output belongs to the command above it, over all blocks."""
    text = "a\n```console\n$ one\n1\n\n2\n$ two\n```\nb\n```console\n$ three\n3\n```\n"
    assert steps(text) == [Step("one", "1\n\n2"), Step("two", ""), Step("three", "3")]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("at 00000002-00000000000000ff.", "at POSITION."),
        (f"token {'0a' * 16} is", "token ID is"),
        ("until 2026-11-21T06:31:52Z", "until TIME"),
        ("keyring  /tmp/tmp.x/ams.keyring.json", "keyring  DIRECTORY/ams.keyring.json"),
        ("version 3 of acme/web", "version 3 of acme/web"),
    ],
)
def test_only_what_varies_is_normalised(output: str, expected: str) -> None:
    """Ids, positions, times and directories; no version, name or word."""
    assert normalised(output) == expected
