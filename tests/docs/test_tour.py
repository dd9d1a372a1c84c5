"""The tours of the README and of other pages, taken with real processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.docs.pages import Page
from tests.docs.tour import Shell, Step, normalised, steps


@pytest.mark.parametrize("page", ["README.md", "docs/tokens.md"])
def test_the_tour_prints_what_the_page_says(tmp_path: Path, page: str) -> None:
    """Every command of the page, in order, against real nodes."""
    if page == "docs/tokens.md" and not all(map(shutil.which, ("node", "curl"))):
        pytest.skip("the tour's API server is in JavaScript and asked with curl; one is not here")
    shell = Shell(tmp_path)
    try:
        for step in steps(Page.read(page).text):
            assert normalised(shell.run(step.command)) == normalised(step.output), step.command
    finally:
        shell.close()


def test_the_question_and_the_answer_that_tokens_explains_are_of_its_tour() -> None:
    """What *Verifying* shows of a verdict is what the tour asks a node, and what that answers."""
    page = Page.read("docs/tokens.md")
    asked, told = map(json.loads, page.blocks("json"))
    taken = steps(page.text)
    (question,) = [step.command for step in taken if "> question.json)" in step.command]
    sent = json.loads(question.partition("printf '")[2].partition("' ")[0])
    assert asked | {"token": "%s"} == sent
    (answer,) = [step.output for step in taken if step.command == "verify < question.json"]
    assert normalised(json.dumps(told, separators=(",", ":"))) == normalised(answer)


def test_steps_are_commands_with_what_follows_them() -> None:
    """Output belongs to the command above it, over all blocks."""
    text = "a\n```console\n$ one\n1\n\n2\n$ two\n```\nb\n```console\n$ three\n3\n```\n"
    assert steps(text) == [Step("one", "1\n\n2"), Step("two", ""), Step("three", "3")]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("at 00000002-00000000000000ff.", "at POSITION."),
        ("is 00000002-00000000000000ff-a7aadc7acf15cfa8", "is POSITION"),
        ("yes    2-9       0 tx,", "yes    POSITION 0 tx,"),
        (f"token {'0a' * 16} is", "token ID is"),
        ("until 2026-11-21T06:31:52Z", "until TIME"),
        ("keyring  /tmp/tmp.x/ams.keyring.json", "keyring  DIRECTORY/ams.keyring.json"),
        ("version 3 of acme/web", "version 3 of acme/web"),
        ("on http://127.0.0.1:37001/x", "on http://ADDRESS/x"),
        ("/sso?flow=AB_c-1 and BCDF-GHJK", "/sso?flow=FLOW and CODE"),
        ('"lag_ms":12,"seen_ms_ago":3}', '"lag_ms":MILLISECONDS,"seen_ms_ago":MILLISECONDS}'),
    ],
)
def test_only_what_varies_is_normalised(output: str, expected: str) -> None:
    """Ids, positions, times and directories; no version, name or word."""
    assert normalised(output) == expected
