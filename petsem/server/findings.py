"""What a check found: one sentence each, naming things and never their content."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from petsem.errors import PetsemError

NAMED_MAX: Final = 20
"""How many problems of one sort are told one by one."""


class Result(enum.StrEnum):
    """How a part of the check came out. Only a problem means that something does not hold; what
    was skipped, or needs a key that is not here, may hold or not."""

    OK = "ok"
    WARNING = "warning"
    SKIPPED = "skipped"
    NO_KEY = "no_key"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a report."""

    name: str
    result: Result
    message: str

    @property
    def ok(self) -> bool:
        """Whether this is no problem."""
        return self.result is not Result.PROBLEM


@dataclass(frozen=True, slots=True)
class Report:
    """All that a check found, in order."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether all holds, as far as it could be looked at."""
        return all(finding.ok for finding in self.findings)

    @property
    def lacks_keys(self) -> bool:
        """Whether records were not opened, because the keyring lacks a key that they need."""
        return any(finding.result is Result.NO_KEY for finding in self.findings)

    @property
    def problems(self) -> tuple[str, ...]:
        """The sentences that say what does not hold."""
        return tuple(finding.message for finding in self.findings if not finding.ok)


@dataclass(slots=True)
class Findings:
    """A report that is being made."""

    _found: list[Finding] = field(default_factory=list)

    def add(self, name: str, result: Result, message: str) -> None:
        """One line more."""
        self._found.append(Finding(name, result, message))

    def judge(self, name: str, problems: Sequence[str], otherwise: str) -> None:
        """A line for each problem, the first of many; or one that says that all is well."""
        for message in problems[:NAMED_MAX]:
            self.add(name, Result.PROBLEM, message)
        if len(problems) > NAMED_MAX:
            more = len(problems) - NAMED_MAX
            self.add(name, Result.PROBLEM, f"and {more:,} more problems of this sort")
        if not problems:
            self.add(name, Result.OK, otherwise)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the check: what ends it early is a problem, and the next part goes on."""
        try:
            yield
        except PetsemError as e:
            self.add(name, Result.PROBLEM, e.message)
        except Exception as e:
            # Mostly SQLite's; but rows of a damaged database may hold anything.
            self.add(
                name,
                Result.PROBLEM,
                f"the database cannot be read to the end of this part ({type(e).__name__})",
            )

    def report(self) -> Report:
        """What was found so far."""
        return Report(tuple(self._found))
