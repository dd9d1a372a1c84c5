"""Whom this node may have to do with when it dials: the members, as its own database has them.

Guarantees: once there was data, nobody without a row in `nodes` counts, whatever certificate he
shows and whoever named him. While the database cannot be read for a moment, what it said last
stands. A node that has no data yet, or finds its list of members damaged when it starts, cannot
tell, and takes whom his certificate makes a node of the cluster: else it would never get its data.
"""

from __future__ import annotations

import apsw

from petsem.errors import Code, PetsemError
from petsem.server.database import ReadPool
from petsem.server.store import nodes as rows


class Roster:
    """Asks the rows at each call; one costs a point read."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool
        self._read = False
        self._members: set[str] = set()

    @property
    def known(self) -> bool:
        """Whether this node can tell who is a member."""
        if not self._read:
            self.has("")
        return self._read

    def has(self, node_id: str) -> bool:
        """Whether that node is a member, or this one cannot tell."""
        try:
            with self._pool.reading() as db:
                found = rows.find(db, node_id) is not None
        except (apsw.Error, PetsemError) as e:
            if self._read:
                return node_id in self._members
            # What is busy can be read in a moment; where there is no table, there is nobody yet.
            return not (isinstance(e, PetsemError) and e.code is Code.UNAVAILABLE)
        self._read = True
        if found:
            self._members.add(node_id)
        else:
            self._members.discard(node_id)
        return found
