"""Where the ranks of a run meet: a port that is held, and a store that tells them the run directory."""

import socket
from pathlib import Path

import pytest
from pytorch_lightning.utilities import rank_zero_only

from lab.engine.distributed.environment import RankEnvironment
from lab.engine.distributed.rendezvous import announce_run_dir, await_run_dir, open_store
from lab.engine.utils.errors import UserError


def test_a_port_is_held_on_this_machine_alone_until_it_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "1")  # as Lightning leaves it from the job before
    one, other = RankEnvironment(), RankEnvironment()
    ports = {one.main_port, other.main_port}
    assert one.main_port in ports, "it stays"
    assert len(ports) == 2
    for port in ports:
        with socket.socket() as taken, pytest.raises(OSError, match="in use"):
            taken.bind(("127.0.0.1", port))
    with socket.socket() as elsewhere:  # another address of this machine is not listened on
        elsewhere.settimeout(1)
        assert elsewhere.connect_ex(("127.0.0.2", one.main_port)) != 0
    port = one.main_port
    one.release()
    with socket.socket() as freed:
        freed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        freed.bind(("127.0.0.1", port))


def test_ranks_on_several_machines_meet_where_a_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="MASTER_ADDR"):
        _ = RankEnvironment(num_nodes=2).main_address
    monkeypatch.setenv("MASTER_ADDR", "node0")
    monkeypatch.setenv("MASTER_PORT", "4321")
    environment = RankEnvironment(num_nodes=2)
    assert (environment.main_address, environment.main_port) == ("node0", 4321)


def test_another_rank_is_told_the_run_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = RankEnvironment()
    announce_run_dir(open_store(first), tmp_path)
    monkeypatch.setenv("MASTER_ADDR", first.main_address)
    monkeypatch.setenv("MASTER_PORT", str(first.main_port))
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # which rank 1 sets for its process
    assert await_run_dir() == tmp_path
