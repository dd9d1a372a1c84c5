"""The running node: its parts, wired once. The doors get a `Node` and nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from petsem.clock import Clock, SystemClock
from petsem.replication.steps import Reached, nothing
from petsem.server.auth import Authenticator
from petsem.server.bundles import Bundles
from petsem.server.changes import Changes
from petsem.server.cluster_view import ClusterView
from petsem.server.config import Config, load_config
from petsem.server.database import ReadPool
from petsem.server.datadir import DataDir, NodeIdentity
from petsem.server.freshness import FreshnessSource
from petsem.server.housekeeping import Housekeeping
from petsem.server.keyring_source import KeyringSource, load_keyring
from petsem.server.keys import Keys
from petsem.server.last_seen import LastSeen
from petsem.server.lost_revocations import LostRevocations
from petsem.server.replica.followers import Followers
from petsem.server.replica.lost_keks import LostKeks
from petsem.server.replica.upstream import Upstream
from petsem.server.replication import Replication
from petsem.server.roles import Roles
from petsem.server.scanning import Scanning
from petsem.server.service.boot import Boot
from petsem.server.service.boots import Boots
from petsem.server.service.exchanging import Exchanging
from petsem.server.service.keyring import KeyringService
from petsem.server.service.login import Login
from petsem.server.service.nodes import Nodes
from petsem.server.service.orgs import Orgs
from petsem.server.service.revoking import Revoking
from petsem.server.service.secrets import Secrets
from petsem.server.service.status import StatusService
from petsem.server.service.tokens import Tokens
from petsem.server.service.two_key import BootReads
from petsem.server.service.verify import Verification
from petsem.server.service.writes import Writes
from petsem.server.space import Space
from petsem.server.writer import Writer
from petsem.sso.authenticator import Authenticator as SsoAuthenticator
from petsem.wire import petsem_pb2 as pb


@dataclass(slots=True)
class Node:
    """Everything that a request may need."""

    datadir: DataDir
    identity: NodeIdentity
    config: Config
    clock: Clock
    keys: Keys
    space: Space
    changes: Changes
    helper: ThreadPoolExecutor
    pool: ReadPool
    writer: Writer
    auth: Authenticator
    freshness: FreshnessSource
    view: ClusterView
    nodes: Nodes
    orgs: Orgs
    secrets: Secrets
    reads: BootReads
    boot: Boot
    tokens: Tokens
    exchanging: Exchanging
    boots: Boots
    login: Login
    authenticator: SsoAuthenticator
    revoking: Revoking
    verification: Verification
    keyring: KeyringService
    status: StatusService
    housekeeping: Housekeeping
    scanning: Scanning
    replication: Replication
    lost_revocations: LostRevocations
    last_seen: LastSeen
    roles: Roles = field(init=False)

    @property
    def upstream(self) -> Upstream:
        """The way to the node that this one follows."""
        return self.replication.upstream

    @property
    def followers(self) -> Followers:
        """Who follows this node."""
        return self.replication.followers

    async def start(self) -> None:
        """Take up the role that the directory records."""
        await self.roles.start()
        self.lost_revocations.start()
        self.last_seen.start()

    async def stop(self) -> None:
        """Finish what was accepted, then close; the doors are closed before."""
        await self.authenticator.close()
        await self.last_seen.stop()
        await self.lost_revocations.stop()
        await self.roles.stop()
        self.pool.close()
        self.helper.shutdown()


def build_node(
    datadir: DataDir,
    environ: dict[str, str],
    *,
    clock: Clock | None = None,
    vfs: str | None = None,
    reached: Reached = nothing,
) -> Node:
    """Wire a node from its directory. Nothing of the database is opened yet.

    Call it inside the event loop. `environ` is read for the keyring only. `vfs` names the SQLite
    VFS, for tests in which a disk fails; `reached` listens to the steps of `replication.steps`.
    """
    clock = clock or SystemClock()
    identity = datadir.read_identity()
    config = load_config(datadir)
    source = KeyringSource.of(datadir, config.keyring, environ)
    keys = Keys(load_keyring(source))
    space = Space(datadir.path)
    changes = Changes()
    helper = ThreadPoolExecutor(max_workers=1, thread_name_prefix="petsem-helper")
    pool = ReadPool(datadir.database, vfs=vfs)
    bundles = Bundles(keys)
    writer = Writer(
        datadir.database,
        helper=helper,
        clock=clock,
        space=space,
        changes=changes,
        finish=bundles.finish,
        vfs=vfs,
        queue_max=config.limits.write_queue,
    )
    view = ClusterView(clock)
    writer.logging.reached = reached
    replication = Replication(
        datadir=datadir,
        identity=identity,
        config=config,
        clock=clock,
        keys=keys,
        pool=pool,
        helper=helper,
        writer=writer,
        view=view,
        changes=changes,
        space=space,
        reached=reached,
    )
    followers = replication.followers
    auth = Authenticator(keys, clock, identity.cluster_id, identity.region, changes, view)
    freshness = FreshnessSource(identity.node_id, identity.region, clock, view)
    reads = BootReads(auth, view)
    writes = Writes(writer, keys, auth, followers)
    lost_keks = LostKeks(datadir)
    keyring = KeyringService(
        node_id=identity.node_id,
        writes=writes,
        writer=writer,
        pool=pool,
        keys=keys,
        source=source,
        followers=followers,
        own_lost=lambda: pb.NodeReport(
            node=identity.node_id, region=identity.region, lost_keks=lost_keks.ids()
        ),
    )
    tokens = Tokens(writes=writes, pool=pool, keys=keys, auth=auth, cluster_id=identity.cluster_id)
    login = Login(writes=writes, pool=pool, keys=keys, tokens=tokens, clock=clock)
    lost_revocations = LostRevocations(
        datadir=datadir,
        identity=identity,
        view=view,
        upstream=replication.upstream,
        tokens=tokens,
        helper=helper,
    )
    node = Node(
        datadir=datadir,
        identity=identity,
        config=config,
        clock=clock,
        keys=keys,
        space=space,
        changes=changes,
        helper=helper,
        pool=pool,
        writer=writer,
        auth=auth,
        freshness=freshness,
        view=view,
        nodes=Nodes(
            writes=writes,
            writer=writer,
            pool=pool,
            keys=keys,
            identity=identity,
            clock=clock,
            freshness=freshness,
        ),
        orgs=Orgs(writes=writes, pool=pool, keys=keys),
        secrets=Secrets(writes=writes, pool=pool, keys=keys, freshness=freshness),
        reads=reads,
        boot=Boot(
            pool=pool,
            bundles=bundles,
            auth=auth,
            reads=reads,
            changes=changes,
            freshness=freshness,
            streams_max=config.limits.watch_streams,
        ),
        tokens=tokens,
        exchanging=Exchanging(writes=writes, pool=pool, auth=auth, tokens=tokens),
        boots=Boots(writes=writes, pool=pool, keys=keys),
        login=login,
        # Its public URL is known once the HTTP door is open.
        authenticator=SsoAuthenticator(clock, None, login.org_of),
        revoking=Revoking(writes=writes, pool=pool),
        verification=Verification(
            pool=pool,
            auth=auth,
            changes=changes,
            streams_max=config.limits.watch_streams,
            freshness=freshness,
        ),
        keyring=keyring,
        status=StatusService(
            datadir=datadir,
            identity=identity,
            pool=pool,
            writer=writer,
            keys=keys,
            source=source,
            keyring=keyring,
            space=space,
            freshness=freshness,
            hearsay=replication.hearsay,
        ),
        housekeeping=Housekeeping(
            writer=writer,
            pool=pool,
            keys=keys,
            clock=clock,
            space=space,
            damaged_bundles=bundles.damaged,
        ),
        scanning=Scanning(helper),
        replication=replication,
        lost_revocations=lost_revocations,
        last_seen=LastSeen(
            notes=auth.notes,
            clock=clock,
            view=view,
            pool=pool,
            writer=writer,
            upstream=replication.upstream,
        ),
    )
    replication.branch_lost = lost_revocations.look
    replication.describe = node.status.report
    node.roles = Roles(node, reached=reached)
    return node
