"""Settings: every mistake is named with its place; the environment wins over the file."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from node.errors import NotFound, SettingsError
from node.settings import FILE_NAME, Settings, load_settings

PEER = '[[peer]]\nname = "pacs"\nae_title = "PACS"\n'
WEB = '[[peer]]\nname = "web"\n'
PROFILE = '[[profile]]\nname = "rich"\n'
RULE = '[[rule]]\nname = "lungs"\nmodel = "ct-lung"\n'


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests reaches them."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"PACS_NODE_{name.upper()}", raising=False)


def load(home: Path, text: str = "") -> Settings:
    """Return the settings of a home whose file says *text*."""
    (home / FILE_NAME).write_text(text, encoding="utf-8")
    return load_settings(home)


TLS = '[tls]\ncertificate = "a.pem"\nkey = "a.key"\n'

MISTAKES = [
    ("port = 0", "port: Input should be greater than or equal to 1"),
    ('port = "dicom"', "port: Input should be a valid integer"),
    ("prot = 104", "prot: Extra inputs are not permitted"),
    ('ae_title = "A TITLE FAR TOO LONG"', "ae_title: Value error, not an AE title"),
    ('ae_title = "BACK\\\\SLASH"', "ae_title: Value error, not an AE title"),
    ('device = "tpu"', "device: String should match"),
    ('uid_root = "1.2.x"', "uid_root: String should match"),
    ("retry_base = 0", "retry_base: Input should be greater than 0"),
    ("quiet_period = -5", "quiet_period: Input should be greater than 0"),
    ("lease = 5", "lease must be at least three times heartbeat"),
    (PEER + "port = 70000", "peer[1].port: Input should be less than or equal to 65535"),
    (PEER + 'colour = "red"', "peer[1].colour: Extra inputs are not permitted"),
    (PEER + PEER, "two peers are called 'pacs'"),
    ('[[peer]]\nname = "a b"\nae_title = "X"', "peer[1].name: Value error, not a name"),
    (WEB, "peer[1]: Value error, name its ae_title (and host and port), or the url"),
    (WEB + 'url = "ftp://x/y"', "peer[1].url: Value error, not the address of a DICOMweb service"),
    (WEB + 'url = "https://"', "peer[1].url: Value error, not the address of a DICOMweb service"),
    (WEB + 'url = "https://me:canary@x/y"', "peer[1].url: Value error, a url has no user, password"),
    (WEB + 'url = "https://x/y?key=canary"', "peer[1].url: Value error, a url has no user, password"),
    (WEB + 'url = "http://x/y"\ntoken = "canary"', "peer[1]: Value error, a token or password is only sent over https"),
    (WEB + 'url = "https://x/y"\ntoken = "canary"\nuser = "canary"', "peer[1]: Value error, give a token, or user and"),
    (WEB + 'url = "https://x/y"\nverify = "commitment"', "peer[1]: Value error, verify = 'commitment' needs DICOM"),
    (PEER + 'token = "canary"', "peer[1]: Value error, token, user and password are for a peer with a url"),
    (PEER + 'verify = "hope"', "peer[1].verify: Input should be 'query', 'commitment' or 'none'"),
    (PEER + 'count = "qido"', "peer[1]: Value error, count = 'qido' is for a peer with a url"),
    (WEB + 'url = "https://x/y"\ncount = "qido"', "peer[1]: Value error, count needs the ae_title under which"),
    (WEB + 'url = "https://x/y"\nae_title = "X"\ncount = "c-find"', "count = 'c-find' for one without"),
    ("quiet_period = 60\nlongest_wait = 30", "longest_wait must not be shorter than quiet_period"),
    (RULE + 'required_series = ["("]', "rule[1].required_series[1]: Value error, not a regular expression"),
    (RULE + RULE, "two rules are called 'lungs'"),
    (RULE + 'series_description = "("', "rule[1].series_description: Value error, not a regular expression"),
    (RULE + 'orientation = ["sideways"]', "rule[1]: Value error, orientation 'sideways' is none of axial"),
    (RULE + 'destinations = ["archive"]', "rule 'lungs': there is no peer 'archive'"),
    (RULE + 'calling_ae = ["OK", "NOT\\\\OK"]', "rule[1].calling_ae[2]: Value error, not an AE title"),
    (RULE + "priority = 10", "rule[1].priority: Input should be less than or equal to 9"),
    (PEER + 'profile = "rich"', "peer 'pacs': there is no profile 'rich'"),
    (PROFILE + PROFILE, "two profiles are called 'rich'"),
    (PROFILE + 'seg = "labelmap"', "profile[1]: Value error, seg = 'labelmap' is painted with wrong labels"),
    (PROFILE + 'seg = "none"\nsr = "none"\nsecondary_capture = false', "profile[1]: Value error, the profile sends"),
    (PROFILE + 'language = "la"', "profile[1].language: Input should be 'en', 'de', 'fr', 'es' or 'zh'"),
    ("port =", "Invalid value"),
    (PEER + "tls = true", "peer 'pacs' is to be met over TLS: a [tls] table is missing"),
    (PEER + 'certificate = "ab:cd"', "peer[1].certificate: Value error, not a SHA-256 fingerprint"),
    (PEER + 'addresses = ["10.0.0.0/8", "ward 3"]', "peer[1].addresses[2]: Value error, neither an address nor a net"),
    (WEB + 'url = "https://x/y"\ntls = true', "peer[1]: Value error, tls is for a peer that speaks DICOM"),
    (TLS, "tls: Value error, name the authorities that vouch for peers"),
    (TLS + "mutual = false\nonly = true\nport = 0", "tls: Value error, only = true with port = 0"),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES)
def test_each_mistake_is_named_with_file_and_field(tmp_path: Path, text: str, said: str) -> None:
    """An operator reads which file, which field, and what is wrong."""
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / FILE_NAME}: ")
    assert said in str(caught.value)
    assert "canary" not in str(caught.value)


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    """Three mistakes, three lines: nobody starts the node four times."""
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, 'port = 0\nweb_port = 0\nlog_level = "LOUD"')
    assert len(str(caught.value).splitlines()) == 3


def test_a_file_that_is_no_text_is_a_named_mistake(tmp_path: Path) -> None:
    """Not a traceback."""
    (tmp_path / FILE_NAME).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=FILE_NAME):
        load_settings(tmp_path)


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container changes one setting without another file."""
    monkeypatch.setenv("PACS_NODE_PORT", "4242")
    settings = load(tmp_path, 'port = 104\nae_title = "FROMFILE"')
    assert (settings.port, settings.ae_title) == (4242, "FROMFILE")


@pytest.mark.parametrize(("said", "seconds"), [("2", 2.0), ("0.5", 0.5), ("PT3S", 3.0)])
def test_durations_of_the_environment_are_seconds_too(
    said: str, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number as in the file, or ISO 8601."""
    monkeypatch.setenv("PACS_NODE_QUIET_PERIOD", said)
    assert load(tmp_path).quiet_period.total_seconds() == seconds


def test_peers_can_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are JSON there."""
    monkeypatch.setenv("PACS_NODE_PEER", '[{"name": "pacs", "ae_title": "PACS", "host": "10.0.0.5"}]')
    assert load(tmp_path).peer_named("pacs").host == "10.0.0.5"


@pytest.mark.parametrize(("name", "value"), [("PACS_NODE_PORT", "ninety"), ("PACS_NODE_PEER", "not json")])
def test_a_mistake_of_the_environment_is_named_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """The file is innocent: the line names the environment and the field."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=r"^environment") as caught:
        load(tmp_path)
    assert name.removeprefix("PACS_NODE_").lower() in str(caught.value).lower()
    assert FILE_NAME not in str(caught.value)


def test_a_given_home_wins_and_secrets_stay_out_of_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--home` is what a person just typed; a password in a URL is never printed with the settings."""
    monkeypatch.setenv("PACS_NODE_HOME", "/elsewhere")
    monkeypatch.setenv("PACS_NODE_DATABASE_URL", "postgresql+psycopg://node:hunter2@db/node")
    settings = load(tmp_path)
    assert settings.home == tmp_path
    assert "hunter2" not in repr(settings)
    assert settings.database.endswith("hunter2@db/node")


def test_a_node_without_a_file_is_complete(tmp_path: Path) -> None:
    """Nothing but a home: SQLite and a private Redis inside it, chest CT to both lung models."""
    settings = load_settings(tmp_path)
    assert settings.database == f"sqlite:///{tmp_path / 'node.db'}"
    assert settings.broker == f"redis+socket://{tmp_path / 'run' / 'redis.sock'}"
    assert [rule.model for rule in settings.rules] == ["ct-lung", "ct-lung-nodule"]
    assert settings.quiet_period == timedelta(seconds=60)


def test_a_deep_home_keeps_its_socket_path_short(tmp_path: Path) -> None:
    """A unix socket's path ends after 107 bytes; the stand-in is the same each time, and another for another home."""
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    socket = load_settings(deep).redis_socket
    assert len(str(socket)) < 108
    assert socket == load_settings(deep).redis_socket
    assert socket != load_settings(tmp_path / ("y" * 120)).redis_socket


def test_an_unknown_peer_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    """The person who mistyped sees what to type."""
    with pytest.raises(NotFound, match="no peer 'pasc'; known: pacs"):
        load(tmp_path, PEER).peer_named("pasc")


def test_settings_cannot_be_changed_after_they_were_read(tmp_path: Path) -> None:
    """Read once, validated whole."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings(tmp_path).port = 1


def test_a_peer_is_told_in_the_objects_of_its_profile(tmp_path: Path) -> None:
    """The built-in default shows something everywhere; a profile of that name replaces it."""
    settings = load(tmp_path, PROFILE + "pdf = true\n" + PEER + 'profile = "rich"')
    default, rich = settings.profiles["default"], settings.profiles[settings.peer_named("pacs").profile]
    assert (default.seg, default.sr, default.secondary_capture) == ("binary", "comprehensive-3d", True)
    assert (default.pdf, rich.pdf) == (False, True)
    bare = load(tmp_path, '[[profile]]\nname = "default"\nsecondary_capture = false')
    assert not bare.profiles["default"].secondary_capture
    assert load(tmp_path, PROFILE + 'seg = "labelmap"\nallow_labelmap = true').profiles["rich"].seg == "labelmap"


def test_a_dicomweb_server_is_a_peer_by_its_url(tmp_path: Path) -> None:
    """Its secrets reach the transport and are shown nowhere; several peers need no AE title."""
    secret = 'url = "https://pacs/dicom-web/"\ntoken = "canary"\n'
    other = '[[peer]]\nname = "two"\nurl = "http://127.0.0.1:8042/dicom-web"\nuser = "me"\npassword = "canary"\n'
    settings = load(tmp_path, WEB + secret + other)
    first, second = settings.peers
    assert (first.url, first.token, first.ae_title) == ("https://pacs/dicom-web", "canary", "")
    assert (second.user, second.password) == ("me", "canary")
    assert "canary" not in repr(settings) + repr(settings.peers) + settings.model_dump_json()
