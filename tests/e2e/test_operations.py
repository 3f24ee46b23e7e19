"""The lines of the operations guides deploy, upgrade and restore two parties."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from secretflow_task.broker.embedded_redis import embedded_redis
from secretflow_task.contract.messages import Status
from tests.bench.waiting import wait_for
from tests.e2e.conftest import psi_params, write_tables
from tests.e2e.containers import ROOT, Machine, Project
from tests.e2e.nodes import PARTIES, RunningNode, running_node
from tests.e2e.shell import Docker
from tests.faults.field import check_events

pytestmark = [
    pytest.mark.engine,
    pytest.mark.matrix,
    pytest.mark.timeout(1800),
]
GUIDES = ROOT / "docs/ops_guide"
SEND = """
import json, sys
from secretflow_task.cli import environment
from secretflow_task.client import Client
from secretflow_task.contract.requests import TaskRequest
with Client(environment.settings()) as client:
    client.submit(TaskRequest(sys.argv[1], sys.argv[1], json.loads(sys.argv[2])))
"""


def lines_of(page: str, section: str) -> list[str]:
    """The shell blocks of one section of a guide."""
    text = (GUIDES / page).read_text(encoding="utf-8")
    (found,) = (part for part in re.split(r"^#+ ", text, flags=re.M) if part.startswith(section))
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", found, re.S | re.M)
    assert blocks, f"{page}, {section}"
    return blocks


@dataclass
class Party:
    """One organisation with its host's folder."""

    name: str
    folder: Path
    project: Project
    docker: Docker

    @property
    def peer(self) -> str:
        """The other one."""
        return PARTIES[self.name == PARTIES[0]]

    def follow(self, page: str, section: str, blocks: slice = slice(None)) -> str:
        """Do what a section of a guide says, written for alice; returns what was printed."""
        said = ""
        for block in lines_of(page, section)[blocks]:
            meant = {"alice": self.name, "bob": self.peer, "/srv/sfworker": str(self.folder)}
            own = re.sub("alice|bob|/srv/sfworker", lambda found: meant[found[0]], block)
            said += self.docker.shell(own, ROOT if "docker build" in own else self.folder)
        return said

    def introduce(self, peer: Party, fingerprint: str) -> None:
        """Write the address book."""
        shutil.copy(peer.folder / "party" / f"{peer.name}.crt", self.folder / "party")
        certificate = f"certificate: {peer.name}.crt, fingerprints: [{fingerprint}]"
        entry = f"{peer.name}: {{host: {peer.name}.example, port: 9443, {certificate}}}\n"
        (self.folder / "party/parties.yaml").write_text(entry, encoding="utf-8")

    def set(self, name: str, value: str) -> None:
        """Write a line of `.env`."""
        with (self.folder / ".env").open("a", encoding="utf-8") as file:
            file.write(f"{name}={value}\n")

    def send(self, execution_id: str, params: dict[str, Any]) -> None:
        """Send a request, from the listener's container, which is up when the node is not."""
        done = self.project.execute(
            "listener", "python", "-c", SEND, execution_id, json.dumps(params)
        )
        assert done.returncode == 0, done.stderr

    def history(self, execution_id: str) -> dict[str, Any]:
        """What `sfworker show` has of an execution when it has ended."""
        found: dict[str, Any] = {}

        def has_ended() -> bool:
            done = self.project.execute("listener", "sfworker", "show", execution_id, "--json")
            if done.returncode == 0:
                found.update(json.loads(done.stdout)["parties"][self.name])
            return found.get("status", "RUNNING") != "RUNNING"

        wait_for(has_ended, 300)
        return found


def at_both(parties: list[Party], step: Callable[[Party], Any]) -> list[Any]:
    """Do the same at all parties at the same time."""
    with ThreadPoolExecutor() as threads:
        return list(threads.map(step, parties))


@pytest.fixture(scope="module", name="parties")
def _parties(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Party]]:
    """Alice and bob, deployed up to the smoke test as the guide says, with a table each."""
    root = tmp_path_factory.mktemp("operations")
    with ExitStack() as stack:
        machine = Machine(root, stack)
        projects: dict[Path, Project] = {ROOT: Project(ROOT / "docker-compose.yml", machine)}
        docker = stack.enter_context(Docker(root, projects))
        parties = []
        for name in PARTIES:
            projects[root / name] = Project(
                root / name / "compose.yml", machine, {"node": f"{name}.example"}
            )
            parties.append(Party(name, root / name, projects[root / name], docker))
        prints = [
            said.splitlines()[-1]
            for said in at_both(parties, lambda it: it.follow("deployment.md", "1. Prep"))
        ]
        for party, peer, fingerprint in zip(parties, reversed(parties), reversed(prints)):
            party.introduce(peer, fingerprint)
            party.set("CONCURRENCY", "1")
            write_tables(party.folder / "data")
            subprocess.run(["chown", "-R", "10001:10001", party.folder / "data"], check=True)
        parties[0].project.need("database")
        at_both(parties, lambda it: it.follow("deployment.md", "2. Deploy"))
        yield parties


def test_the_road_to_production_leads_there(parties: list[Party]) -> None:
    for party in parties:
        assert "wrong" not in party.follow("deployment.md", "3. Verify")
    for said in at_both(parties, lambda it: it.follow("deployment.md", "4. Smoke")):
        assert "Well: alice and bob have 75 of 100 rows in common" in said
    for party in parties:
        party.history("first-of-all")
        assert re.search(r"first-of-all .*SUCCESS", party.follow("deployment.md", "5. Watch"))
        files = {path for path in (party.folder / "data").rglob("*") if path.is_file()}
        assert {path.name for path in files} == {"in.csv"}
        party.set("CONCURRENCY", "2")
    nodes = [party.project.running["node"].process for party in parties]
    at_both(parties, lambda it: it.follow("deployment.md", "6. Widen"))
    assert [node.poll() for node in nodes] == [0, 0]


def succeeded(parties: list[Party], *execution_ids: str) -> None:
    """Each ended once, well, and with the same rows, at all parties."""
    for execution_id in execution_ids:
        for party in parties:
            history = party.history(execution_id)
            assert history["status"] == "SUCCESS", history
            assert [event["seq"] for event in history["events"]] == list(
                range(1, len(history["events"]) + 1)
            )
            assert history["result"]["intersection_count"] == 300


@pytest.mark.parametrize("section", ["Upgrade", "Rollback"])
def test_what_is_queued_survives_another_version(section: str, parties: list[Party]) -> None:
    ids = [f"{section}-{number}" for number in range(6)]
    for execution_id in ids:
        for party in parties:
            party.send(
                execution_id,
                psi_params(output_paths={name: f"{execution_id}.csv" for name in PARTIES}),
            )
    before = [party.project.running["node"].process.pid for party in parties]
    at_both(parties, lambda it: it.follow("upgrade.md", section, slice(1)))
    assert not {party.project.running["node"].process.pid for party in parties} & set(before)
    succeeded(parties, *ids)


def test_the_store_that_an_upgrade_has_kept_is_put_back(parties: list[Party]) -> None:
    alice, _ = parties
    alice.project.stop("node")
    state = "/var/lib/sfworker"
    keep = f"cp {state}/node.sqlite {state}/node.sqlite.5.bak && : >{state}/node.sqlite-wal"
    alice.project.run("node", "-c", keep, entrypoint="sh")
    alice.follow("upgrade.md", "Rollback", slice(1, None))
    code, said = alice.project.run("node", "-c", f"ls {state}", entrypoint="sh")
    assert code == 0 and "node.sqlite" in said.split()
    assert not {"node.sqlite.5.bak", "node.sqlite-wal"} & set(said.split())
    alice.project.up("node")
    for party in parties:
        party.send("rolled-back", psi_params())
    succeeded(parties, "rolled-back")


def test_a_restored_party_goes_on_where_the_backup_was_made(parties: list[Party]) -> None:
    alice, bob = parties
    params = psi_params(output_paths={name: "kept.csv" for name in PARTIES})
    for party in parties:
        party.send("done", params)
    succeeded(parties, "done")
    alice.project.stop("node")
    alice.send("queued", psi_params())
    backup, restore = lines_of("backup.md", "Backup\n")[0], lines_of("backup.md", "Restore\n")[0]
    stop, run, start = backup.splitlines()
    alice.docker.shell(f"{stop}\n{run}", alice.folder)
    (archive,) = (alice.folder / "backups").iterdir()
    for lost in ("data", "party", "secrets"):
        shutil.rmtree(alice.folder / lost)
    alice.project.down(volumes=True)
    for empty in ("data", "party", "secrets"):  # as the engine makes them
        (alice.folder / empty).mkdir()
    assert start in restore
    alice.docker.shell(re.sub(r"(?<=archive=)\S+", archive.name, restore), alice.folder)
    bob.send("queued", psi_params())
    succeeded(parties, "queued", "done")
    assert (alice.folder / "data/alice/kept.csv").read_text().count("\n") == 301
    alice.send("done", params)  # known: not run again
    alice.send("after", psi_params())
    bob.send("after", psi_params())
    succeeded(parties, "after", "done")


def test_nodes_join_one_behind_its_queue_and_leave_it(tmp_path: Path) -> None:
    (block,) = lines_of("scaling.md", "More nodes")
    *exports, command = block.splitlines()
    assert command == "sfworker start"
    write_tables(tmp_path / "data")

    def settings(number: int, url: str) -> dict[str, str]:
        own = {
            "redis://redis.internal:6379/0": url,
            "/mnt/data": str(tmp_path / "data"),
            "node-2": f"node-{number}",
        }
        text = "\n".join(exports).replace("/var/", f"{tmp_path}/var/")
        for written, meant in own.items():
            text = text.replace(written, meant)
        return dict(re.findall(r"^export (\w+)=(\S+)$", text, re.M)) | {
            "SFWORKER_CONCURRENCY": "1",
            "SFWORKER_DRAIN_SECONDS": "60",
        }

    def send(node: RunningNode, *ids: str) -> list[str]:
        for execution_id in ids:
            node.send(
                execution_id,
                psi_params(output_paths={name: f"{execution_id}.csv" for name in PARTIES}),
            )
        return list(ids)

    def workers(node: RunningNode, ids: list[str]) -> set[str]:
        found = [events for execution_id in ids for events in node.events(execution_id).values()]
        for events in found:
            check_events(events)
            assert events[-1].status is Status.SUCCESS, events[-1].data
        return {event.worker_container for events in found for event in events}

    with embedded_redis() as url, ExitStack() as stack:
        nodes = []
        for number in (1, 2, 3):
            root = tmp_path / str(number)
            root.mkdir()
            nodes.append(stack.enter_context(running_node(root, url, **settings(number, url))))
            if number == 1:
                assert workers(nodes[0], send(nodes[0], "alone")) == {"node-1"}
        assert workers(nodes[0], send(nodes[0], *(f"shared-{number}" for number in range(15)))) == {
            "node-1",
            "node-2",
            "node-3",
        }
        left = send(nodes[1], *(f"left-{number}" for number in range(6)))
        nodes[0].process.terminate()
        assert nodes[0].process.wait(120) == 0
        workers(nodes[1], left)
        assert workers(nodes[1], send(nodes[1], *(f"late-{number}" for number in range(6)))) == {
            "node-2",
            "node-3",
        }
