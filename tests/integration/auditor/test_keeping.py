"""Signed checkpoints outside the store, and the archive: what they vouch for, and what happens when somebody lays hands on them."""

import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import bson
import pytest
from own_trail import Trail

from auditor import documents, keeping
from auditor.chain import FirstBad, Tampering
from auditor.documents import LOGS
from auditor.keeping import Keeping, TrailDisagrees
from auditor.settings import Settings
from shared.auth import keys
from shared.auth.keys import NoSigningKey
from shared.breaker import CircuitState
from shared.clock import utc_now
from shared.db.engine import DatabaseUnavailable
from shared.testing.servers import LocalMongo


@pytest.fixture
def settings(mongo: LocalMongo, tmp_path: Path) -> Settings:
    keys.ensure(tmp_path / "audit")
    return Settings(
        mongo_url=mongo.url,
        key_dir=str(tmp_path),
        audit_key_dir=None,
        audit_checkpoint_url=(tmp_path / "outside" / "audit.ndjson").as_uri(),
        audit_archive_dir=str(tmp_path / "archive"),
        audit_archive_records_max=4,
    )


@pytest.fixture
def kept(trail: Trail, settings: Settings) -> Keeping:
    return Keeping.open(trail.database, settings)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """Everything's time is over."""
    monkeypatch.setattr(keeping, "utc_now", lambda: utc_now() + timedelta(seconds=settings.audit_kept_seconds + 1))


def lines(settings: Settings) -> Path:
    return Path(str(settings.audit_checkpoint_url).removeprefix("file://"))


def archived(settings: Settings, pattern: str) -> list[Path]:
    return sorted(Path(str(settings.audit_archive_dir)).glob(pattern))


class TestCheckpoints:
    def test_each_is_taken_once_and_agrees(self, trail: Trail, kept: Keeping, settings: Settings) -> None:
        assert kept.take_checkpoint() is None
        for _ in range(2):
            trail.record(3)
            assert kept.take_checkpoint() is not None
            assert kept.take_checkpoint() is None
        assert [json.loads(line)["seq"] for line in lines(settings).read_bytes().splitlines()] == [3, 6]
        found = kept.verify()
        assert (found.valid, found.checkpoints) == (True, 2)

    def test_a_trail_that_is_another_is_not_signed(self, trail: Trail, kept: Keeping, settings: Settings) -> None:
        trail.record(2)
        kept.take_checkpoint()
        trail.database[LOGS].update_one({"seq": 2}, {"$set": {"hash": "0" * 64}})
        trail.record(1)
        with pytest.raises(TrailDisagrees):
            kept.take_checkpoint()
        assert len(lines(settings).read_bytes().splitlines()) == 1

    def test_a_line_that_was_cut_off_is_passed_over_and_the_next_one_counts(
        self, trail: Trail, kept: Keeping, settings: Settings
    ) -> None:
        trail.record(1)
        kept.take_checkpoint()
        lines(settings).write_bytes(lines(settings).read_bytes()[:-20])
        trail.record(1)
        kept.take_checkpoint()
        found = kept.verify()
        assert (found.valid, found.checkpoints) == (True, 1)

    @pytest.mark.parametrize("forge", ["another count", "another key"])
    def test_one_that_we_did_not_sign_is_reported(
        self, trail: Trail, kept: Keeping, settings: Settings, tmp_path: Path, forge: str
    ) -> None:
        trail.record(3)
        kept.take_checkpoint()
        if forge == "another key":
            for path in settings.audit_keys.iterdir():
                path.unlink()
            keys.ensure(settings.audit_keys)
        else:
            lines(settings).write_text(lines(settings).read_text().replace('"seq":3', '"seq":2'))
        bad = kept.verify().first_bad
        assert bad == FirstBad(3 if forge == "another key" else 2, Tampering.FORGED)

    def test_a_rotated_key_still_vouches(self, trail: Trail, kept: Keeping, settings: Settings) -> None:
        for _ in range(2):
            trail.record(1)
            kept.take_checkpoint()
            keys.rotate(settings.audit_keys)
        assert kept.verify().checkpoints == 2

    def test_without_a_key_it_is_refused_at_the_start(self, trail: Trail, settings: Settings, tmp_path: Path) -> None:
        empty = settings.model_copy(update={"audit_key_dir": str(tmp_path / "none")})
        with pytest.raises(NoSigningKey):
            Keeping.open(trail.database, empty).require_key()


class Witness(http.server.ThreadingHTTPServer):
    """Keeps what is posted to it; `status` is what it answers instead of 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kept = b""
        self.status = 200
        self.asked = 0


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Witness

    def do_POST(self) -> None:
        line = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.status == 200:
            self.server.kept += line
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(self.server.kept)

    def _answer(self, body: bytes) -> None:
        self.server.asked += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def witness() -> Iterator[Witness]:
    server = Witness()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


class TestCheckpointsAtAUrl:
    def test_they_go_there_and_are_read_from_there(self, trail: Trail, settings: Settings, witness: Witness) -> None:
        kept = self.open(trail, settings, witness)
        trail.record(2)
        kept.take_checkpoint()
        assert kept.verify().checkpoints == 1
        trail.database[LOGS].delete_one({"seq": 2})
        trail.database[documents.HEAD].delete_many({})
        assert kept.verify().first_bad == FirstBad(2, Tampering.TAIL_CUT)

    def test_while_it_fails_its_circuit_opens_and_when_it_is_back_it_closes(
        self, trail: Trail, settings: Settings, witness: Witness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept = self.open(trail, settings, witness)
        trail.record(1)
        witness.status = 500
        for _ in range(8):
            with pytest.raises(DatabaseUnavailable):
                kept.take_checkpoint()
        circuit = kept.place._circuit  # type: ignore[union-attr]
        assert (circuit.state, witness.asked) == (CircuitState.OPEN, 5)
        witness.status = 200
        monkeypatch.setattr(circuit, "_trial_at", 0.0)
        assert kept.take_checkpoint() is not None
        assert circuit.state is CircuitState.CLOSED

    @staticmethod
    def open(trail: Trail, settings: Settings, witness: Witness) -> Keeping:
        url = f"http://127.0.0.1:{witness.server_address[1]}/audit"
        return Keeping.open(trail.database, settings.model_copy(update={"audit_checkpoint_url": url}))


@pytest.mark.usefixtures("later")
class TestArchive:
    def test_moves_what_a_checkpoint_covers_and_the_chain_is_verified_over_both(
        self, trail: Trail, kept: Keeping, settings: Settings
    ) -> None:
        trail.record(6)
        assert kept.archive_due() == 0  # no checkpoint yet
        kept.take_checkpoint()
        trail.record(2)
        assert [kept.archive_due() for _ in range(3)] == [4, 2, 0]
        assert [record["seq"] for record in trail.records()] == [7, 8]
        assert len(archived(settings, "*.json")) == len(archived(settings, "*.bson.gz")) == 2
        found = kept.verify()
        assert (found.valid, found.records) == (True, 8)
        trail.record(1)
        assert kept.verify().head.seq == 9

    def test_goes_on_when_everything_is_archived(self, trail: Trail, kept: Keeping) -> None:
        trail.record(3)
        kept.take_checkpoint()
        assert kept.archive_due() == 3
        assert trail.records() == []
        trail.record(1)
        assert kept.take_checkpoint() is not None
        found = kept.verify()
        assert (found.valid, found.records) == (True, 4)

    def test_a_crash_before_the_deletion_leaves_both_and_the_next_run_ends_it(
        self, trail: Trail, kept: Keeping, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trail.record(3)
        kept.take_checkpoint()
        with monkeypatch.context() as patch:
            patch.setattr(documents, "delete_through", lambda *_: None)
            kept.archive_due()
        found = kept.verify()
        assert (found.valid, found.records, len(trail.records())) == (True, 3, 3)
        trail.database[LOGS].update_one({"seq": 2}, {"$set": {"action": "other"}})
        assert kept.verify().first_bad == FirstBad(2, Tampering.CHANGED)  # people are shown the live one
        assert kept.archive_due() == 0
        assert trail.records() == []
        assert kept.verify().valid

    def test_what_does_not_verify_stays_where_it_is(self, trail: Trail, kept: Keeping, settings: Settings) -> None:
        trail.record(3)
        kept.take_checkpoint()
        trail.database[LOGS].update_one({"seq": 2}, {"$set": {"action": "other"}})
        with pytest.raises(TrailDisagrees):
            kept.archive_due()
        assert (len(trail.records()), archived(settings, "*")) == (3, [])

    @pytest.mark.parametrize(
        ("tamper", "bad"),
        [
            ("change a record", FirstBad(2, Tampering.CHANGED)),
            ("take the file away", FirstBad(1, Tampering.MISSING)),
            ("take the manifest away", FirstBad(1, Tampering.MISSING)),
            ("forge the manifest", FirstBad(1, Tampering.MISSING)),
        ],
    )
    def test_tampering_with_it_is_found(
        self, trail: Trail, kept: Keeping, settings: Settings, tamper: str, bad: FirstBad
    ) -> None:
        trail.record(4)
        kept.take_checkpoint()
        kept.archive_due()
        trail.record(1)
        assert kept.verify().valid
        [file], [manifest] = archived(settings, "*.bson.gz"), archived(settings, "*.json")
        match tamper:
            case "change a record":
                records = bson.decode_all(gzip.decompress(file.read_bytes()))
                records[1]["action"] = "other"
                file.write_bytes(gzip.compress(b"".join(bson.encode(record) for record in records)))
            case "take the file away":
                file.unlink()
            case "take the manifest away":
                manifest.unlink()
            case "forge the manifest":
                manifest.write_text(manifest.read_text().replace('"records":4', '"records":3'))
        assert kept.verify().first_bad == bad


class TestRetention:
    def test_what_is_young_stays(self, trail: Trail, kept: Keeping) -> None:
        trail.record(3)
        kept.take_checkpoint()
        assert kept.archive_due() == 0
        assert len(trail.records()) == 3

    def test_it_is_never_shorter_than_repeated_events_may_come(self) -> None:
        with pytest.raises(ValueError, match="repeated event"):
            Settings(audit_kept_seconds=1)
