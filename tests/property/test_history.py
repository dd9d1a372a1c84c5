"""An app's whole history against a list of dictionaries.

Whatever is set, unset, rolled back and destroyed in whatever order: every version reads as it was,
the counts are those of the rows, and bundle and rows give the same bytes.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from petsem.errors import Code, PetsemError
from tests.support.nodes import Site

T = TypeVar("T")

NAMES = st.sampled_from(("A", "B", "C", "DB_URL"))
VALUES = st.binary(max_size=40)


class History(RuleBasedStateMachine):
    """The model: for each version, name → the version that its value was sealed for; and the
    values by (name, sealed version), those that were destroyed taken out."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="petsem-history-"))
        self.loop = asyncio.Runner()
        self.running = Site(self.directory / "node").running()
        self.node = self.run(self.running.__aenter__())
        self.versions: list[dict[str, int]] = [{}]
        self.values: dict[tuple[str, int], bytes] = {}

    def teardown(self) -> None:
        self.run(self.running.__aexit__(None, None, None))
        self.loop.close()
        shutil.rmtree(self.directory)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(work)

    def write(self, work: Coroutine[Any, Any, Any]) -> int | Code:
        """The version after a write, or the code of its refusal."""
        try:
            return int(self.run(work).version)
        except PetsemError as e:
            return e.code

    @property
    def now(self) -> dict[str, int]:
        return self.versions[-1]

    def become(self, state: dict[str, int]) -> int:
        """The model's next version."""
        self.versions.append(state)
        return len(self.versions) - 1

    @initialize()
    def furnish(self) -> None:
        self.run(self.node.furnish())

    @rule(values=st.dictionaries(NAMES, VALUES, max_size=3), unset=st.sets(NAMES, max_size=2))
    def patch(self, values: dict[str, bytes], unset: set[str]) -> None:
        unset -= values.keys()
        if not values and not unset:
            return
        found = self.write(self.node.patch(values, unset=sorted(unset)))
        if not unset <= self.now.keys():
            assert found is Code.NOT_FOUND
            return
        version = len(self.versions)
        state = {n: at for n, at in self.now.items() if n not in unset}
        for name, value in values.items():
            state[name] = version
            self.values[name, version] = value
        assert found == self.become(state) == version

    @rule(to=st.integers(0, 12))
    def rollback(self, to: int) -> None:
        found = self.write(self.node.rollback(to))
        if to >= len(self.versions) - 1:
            assert found is Code.NOT_FOUND
        elif any((name, at) not in self.values for name, at in self.versions[to].items()):
            assert found is Code.CONFLICT
        else:
            assert found == self.become(dict(self.versions[to]))

    @rule(names=st.sets(NAMES, min_size=1, max_size=2))
    def destroy(self, names: set[str]) -> None:
        found = self.write(self.node.destroy(*sorted(names)))
        stored = {name for name, _ in self.values}
        if not names <= stored:
            assert found is Code.NOT_FOUND
            return
        if names & self.now.keys():
            self.become({n: at for n, at in self.now.items() if n not in names})
        assert found == len(self.versions) - 1
        self.values = {key: v for key, v in self.values.items() if key[0] not in names}

    @rule(name=NAMES, version=st.integers(0, 12))
    def destroy_version(self, name: str, version: int) -> None:
        found = self.write(self.node.destroy(name, version=version))
        at = self.versions[version].get(name) if version < len(self.versions) else None
        if at is None or (name, at) not in self.values:
            assert found is Code.NOT_FOUND
        elif self.now.get(name) == at:
            assert found is Code.CONFLICT
        else:
            assert found == len(self.versions) - 1
            del self.values[name, at]

    @rule(name=NAMES, version=st.integers(0, 12))
    def repeat(self, name: str, version: int) -> None:
        """A write that is refused for its condition changes nothing."""
        write = self.node.patch({name: b"never"}, if_version=version)
        if version == len(self.versions) - 1:
            write.close()
            return
        assert self.write(write) is Code.CONFLICT

    @invariant()
    def every_version_reads_as_it_was(self) -> None:
        for version, state in enumerate(self.versions):
            if version == 0:
                continue
            there = {n: at for n, at in state.items() if (n, at) in self.values}
            expected = {n: self.values[n, at] for n, at in there.items()}
            if len(there) == len(state):
                assert self.run(self.node.values(version=version)) == expected
            elif expected:
                asked = tuple(sorted(expected))
                assert self.run(self.node.values(version=version, names=asked)) == expected

    @invariant()
    def the_counts_are_those_of_the_rows(self) -> None:
        found = self.node.rows("SELECT version, secrets, size FROM apps")
        if not found:
            return
        size = sum(len(name) + len(self.values[name, at]) for name, at in self.now.items())
        assert found == [(len(self.versions) - 1, len(self.now), size)]
        rows = self.node.rows(
            "SELECT count(*), coalesce(sum(length(name) + size), 0) FROM secrets"
            " WHERE until IS NULL"
        )
        assert rows == [found[0][1:]]
        sealed = self.node.rows(
            "SELECT DISTINCT name, sealed_at FROM secrets WHERE envelope IS NOT NULL"
        )
        assert set(sealed) == self.values.keys()

    @invariant()
    def bundle_and_rows_agree(self) -> None:
        if not self.node.rows("SELECT 1 FROM apps"):
            return
        assert self.node.rows("SELECT version FROM bundles") == [(len(self.versions) - 1,)]
        bundled = self.run(self.node.fetch())
        kept = self.node.rows("SELECT app, version, envelope FROM bundles")[0]
        self.run(self.node.tamper("DELETE FROM bundles"))
        assembled = self.run(self.node.fetch())
        self.run(self.node.tamper("INSERT INTO bundles VALUES (?, ?, ?)", *kept))
        assert (bundled.body, bundled.etag) == (assembled.body, assembled.etag)

    @invariant()
    def the_history_tells_the_differences(self) -> None:
        if not self.node.rows("SELECT 1 FROM apps"):
            return
        history = self.node.node.secrets.versions("acme", "web", None, 500)
        names: set[str] = set()
        for entry in reversed(history.versions):
            assert not set(entry.set) & set(entry.unset)
            names = (names | set(entry.set)) - set(entry.unset)
            assert names == self.versions[entry.version].keys()
        assert names == self.now.keys() == self.node.listed().keys()


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=30,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
