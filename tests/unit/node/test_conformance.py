"""The conformance statement: derived, complete, without secrets; the page in docs is what the command prints."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AllStoragePresentationContexts
from typer.testing import CliRunner

from node import commitment as reasons
from node.cli.common import app
from node.conformance import describe, statuses, to_markdown
from node.scp import commitment, handlers, messages, mpps, storing
from node.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "docs" / "example"
SECRETS = ("canary-token", "canary-password", "canary-user", "canary-database", "canary-broker")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine sets is not what the examples say."""
    for name in [name for name in os.environ if name.startswith("PACS_NODE_")]:
        monkeypatch.delenv(name)


def settings(tmp_path: Path, **changes: Any) -> Settings:
    """Return settings of a node that knows a PACS."""
    return Settings(**{"home": tmp_path, "peer": [{"name": "pacs", "ae_title": "PACS"}], **changes})


def test_the_page_in_docs_is_what_the_command_prints_of_the_example() -> None:
    """A change of code or settings changes the page in the same commit."""
    printed = to_markdown(describe(load_settings(EXAMPLE)))
    page = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    assert page == printed, "docs/conformance.md is not what the code says: run `make conformance`"


def test_the_command_prints_markdown_and_json() -> None:
    """Both of one node; exit code 2 where there is none."""
    told = CliRunner().invoke(app, ["conformance", "--home", str(EXAMPLE)])
    assert told.exit_code == 0
    assert told.stdout.startswith("# DICOM conformance statement")
    facts = json.loads(CliRunner().invoke(app, ["conformance", "--home", str(EXAMPLE), "--json"]).stdout)
    assert facts["ae_title"] == "PACSAINODE"
    assert len(facts["storage"]) == len(AllStoragePresentationContexts)
    assert [one["name"] for one in facts["remotes"]] == ["scanner", "pacs", "archive"]
    assert CliRunner().invoke(app, ["conformance", "--home", str(EXAMPLE / "nowhere")]).exit_code != 0


@pytest.mark.parametrize(
    ("module", "tables"),
    [
        (storing, [statuses.STORE]),
        (mpps, [statuses.STEP]),
        (commitment, [statuses.ACTION]),
        (handlers, [statuses.REPORT, statuses.ECHO]),
        (reasons, [statuses.FAILURES]),
        (messages, [statuses.NOT_SERVED]),
    ],
)
def test_every_status_that_the_code_has_a_name_for_is_in_the_statement(
    module: Any, tables: list[dict[int, str]]
) -> None:
    """A new constant without its words fails here."""
    no_statuses = {"ENDED", "MOST", "MOST_SERIES", "MOST_INSTANCES", "TRANSIENT"}
    named = {value for name, value in vars(module).items() if name.isupper() and isinstance(value, int)
             and not name.startswith("_") and name not in no_statuses}  # fmt: skip
    assert named == {code for table in tables for code in table}


def test_the_statuses_of_a_store_are_those_that_the_transport_reads() -> None:
    """Every code once."""
    told = {one.codes: one.says for one in statuses.store_answers()}
    assert "0000, 0111, B000, B006 to B007" in told
    assert "0110, 0213, A700 to A7FF" in told
    assert "parked" in told["every other"]


def test_settings_change_the_statement(tmp_path: Path) -> None:
    """Limits, titles, ports, TLS, destinations, profiles."""
    tls = {"certificate": "c.pem", "key": "k.pem", "authorities": "a.pem", "revoked": "r.pem", "only": True}
    profile = {"name": "plain", "seg": "none", "sr": "comprehensive", "secondary_capture": False}
    peers = [
        {"name": "pacs", "ae_title": "PACS", "profile": "plain", "verify": "none"},
        {"name": "ear", "ae_title": "EAR", "may_send": False},
    ]
    changes = {"ae_title": "OTHER", "max_associations": 99, "max_pdu_bytes": 65536, "profile": [profile]}
    told = describe(settings(tmp_path, tls=tls, peer=peers, port=4242, **changes))
    page = to_markdown(told)
    for words in ("`OTHER`", "| 99; 24 ", "65,536 bytes", "| closed |", "0.0.0.0, port 2762", "revocation lists are"):
        assert words in page
    assert "port 4242" not in page
    to = {one.name: one.peers for one in told.activities}
    assert to["Deliver results"] == ("pacs",)
    assert to["Look for results"] == ()
    assert to["Report on storage commitment"] == ("pacs",)
    assert to["Verify"] == ("pacs", "ear")
    assert [one.abstract.name for one in told.results["plain"]] == ["Comprehensive SR"]


def test_without_peers_it_says_that_nobody_is_let_in(tmp_path: Path) -> None:
    """And where strangers are, that they are."""
    assert "nobody is let in" in to_markdown(describe(settings(tmp_path, peer=[])))
    page = to_markdown(describe(settings(tmp_path, peer=[], accept_unknown_senders=True)))
    assert "Every calling AE title is accepted" in page
    assert "nobody is let in" not in page


def test_no_secret_is_in_it(tmp_path: Path) -> None:
    """Neither page nor facts."""
    peers = [
        {"name": "a", "url": "https://a.example", "token": "canary-token"},
        {"name": "b", "url": "https://b.example", "user": "canary-user", "password": "canary-password"},
    ]
    told = describe(
        settings(
            tmp_path, peer=peers, database_url="postgresql://canary-database@db/node", broker_url="redis://:canary-broker@r"
        )
    )  # fmt: skip
    everything = to_markdown(told) + json.dumps(dataclasses.asdict(told), default=str)
    assert "https://a.example" in everything
    assert [secret for secret in SECRETS if secret in everything] == []
    assert str(tmp_path) not in everything
