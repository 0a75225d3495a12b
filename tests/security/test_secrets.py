"""Secrets of the environment: known by their variables' names, refused in a configuration, left out of messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from qntz.compose import compose
from qntz.errors import ConfigError, QntzError, one_line
from qntz.redact import credentials_in, is_secret, redacted

SECRETS = """
AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID AWS_SESSION_TOKEN HF_TOKEN GITHUB_TOKEN githubToken OPENAI_API_KEY apiKey
PGPASSWORD MYSQL_PWD DB_PASS GITHUB_PAT SENTRY_DSN WANDB_APIKEY CLIENT_SECRET NETRC_CREDENTIALS SSH_KEY2 MYTOKEN
AZURE_STORAGE_CONNECTION_STRING ConnectionString DB_CONN_STR SLACK_WEBHOOK_URL TEAMS_WEBHOOK webhookUri SESSION_JWT JWT
SAS_URL BLOB_SAS_URI AZURE_STORAGE_SAS AWS_CREDS DB_PW PGPASS DBPASS SESSION_COOKIE BEARER PASSCODE PRIVKEY
SSHKEY SECRETKEY
"""
HARMLESS = """
PATH PWD OLDPWD HOME PYTHONPATH TOKENIZERS_PARALLELISM MAX_TOKENS GIT_AUTHOR_NAME WIDTH KEYBOARD MONKEY PATTERN AUTHOR
CUDA_VISIBLE_DEVICES OMP_NUM_THREADS SECRETARY COMPASS SAS_HOME SASROOT WEBHOOK_PORT JWT_ISSUER CURL BASE_URL CONN_STRATEGY
CONNECTION_STRATEGY DISASTER_URL PWM TOKENIZER COOKIECUTTER_DIR BYPASS CREDIT
"""
WHY = "what is configured stands in build/config and dvc.lock, for all to read."


@pytest.mark.parametrize("name", SECRETS.split())
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", HARMLESS.split())
def test_names_of_what_is_none(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see postgres://me:hidden@host:5432/db", [("password", "hidden")]),
        ("https://:hidden@host", [("password", "hidden")]),
        ("https://me:hid@den@host", [("password", "hid@den")]),
        ("https://a:one@h/x https://b:two@h/x", [("password", "one"), ("password", "two")]),
        ("https://a:one@h,https://b:two@h", [("password", "one"), ("password", "two")]),
        ("https://host/x?page=2&access_token=hidden#top", [("token", "hidden")]),
        ("https://host/x?sv=2024&sig=hidden%3D&se=1", [("token", "hidden%3D")]),
        ("https://host/x?X-Amz-Signature=hidden", [("token", "hidden")]),
    ],
)
def test_what_urls_hold(text: str, found: list[tuple[str, str]]) -> None:
    assert credentials_in(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "https://host:80/a@b",
        "https://me@host",
        "s3://bucket/key",
        "a:b@c",
        "sqlite:///x",
        "https://host/?page=2",
        "?key=v",
    ],
)
def test_urls_that_hold_nothing(text: str) -> None:
    assert credentials_in(text) == []


def test_messages_hold_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abc/defgh")
    monkeypatch.setenv("LONG_TOKEN", "hf_abc/defgh-and-more")
    monkeypatch.setenv("SIGNING_KEY", "-----BEGIN KEY-----\nMIIabcdefgh\n-----END KEY-----\n")
    monkeypatch.setenv("DATABASE", "postgres://me:hidden-word@host/db")
    monkeypatch.setenv("SHORT_KEY", "abc")
    assert redacted("GET /?t=hf_abc%2Fdefgh and hf_abc/defgh-and-more, hf_abc/defgh") == "GET /?t=*** and ***, ***"
    assert redacted("at MIIabcdefgh: abc") == "at ***: abc"
    assert redacted("login hidden-word failed at host") == "login *** failed at host"
    error = QntzError("a hf_abc/defgh", where="b hf_abc/defgh", why="c hf_abc/defgh", do="d hf_abc/defgh.")
    assert str(error) == "b ***: a ***: c ***. d ***."
    assert error.as_dict() == {"what": "a ***", "where": "b ***", "why": "c ***", "do": "d ***."}
    assert one_line(ValueError("no entry for hf_abc/defgh")) == "ValueError: no entry for ***"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PIP_EXTRA_INDEX_URL", "https://a:first-word@h/x https://b:second-word@h/x", "for second-word, first-word"),
        ("HUB", "https://me:first%2Fword@h/x", "for first/word, first%2Fword"),
        ("HUB", "https://h/x?token=first-token&page=2", "for first-token"),
        ("AWS_SECRET_ACCESS_KEY", "wJalr/K7MD+ENG", "PUT /?k=wJalr/K7MD%2BENG, wJalr%2FK7MD%2BENG"),
        ("A_PASSWORD", "back\\slash", "in {'p': 'back\\\\slash'}"),
        ("A_PASSWORD", "both'of\"them", """in 'both\\'of"them'"""),
        ("A_PASSWORD", 'with"quote', '{"p": "with\\"quote"}'),
        ("A_PASSWORD", "pässwörd", '{"p": "p\\u00e4ssw\\u00f6rd"} and pässwörd, p%C3%A4ssw%C3%B6rd'),
        ("A_PASSWORD", "not\udcffutf8", "for not\udcffutf8, not%FFutf8"),
        ("AZURE_STORAGE_CONNECTION_STRING", "AccountName=a;AccountKey=abcdefgh==;X=y", "key abcdefgh== is wrong"),
        ("BLOB_SAS_URL", "https://h/models?sv=2024&sig=abcdefgh%3D", "GET /models?sv=2024&sig=abcdefgh%3D"),
        (
            "SLACK_WEBHOOK_URL",
            "https://hooks.h/services/T00/B00/abcdefgh",
            "failed with url: /services/T00/B00/abcdefgh",
        ),
    ],
)
def test_in_whatever_form_a_message_has_one(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    told = redacted(said)
    for word in ("word", "-token", "wJalr", "slash", "them", "quote", "rd", "utf8", "abcdefgh"):
        assert word not in told, told
    assert "***" in told
    assert redacted("GET /models of build/models/x") == "GET /models of build/models/x"


def test_without_a_secret_a_text_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY_TOKEN", "")
    monkeypatch.setenv("BLANK_TOKEN", " " * 20)
    assert redacted("a  b" + " " * 30) == "a  b" + " " * 30


def mistake(project: Path, factory: str) -> str:
    (project / "params.yaml").write_text(
        f"models: {{m: {{use: digits, model: {{factory: {{name: {factory}}}}}}}}}\nengines: {{e: {{model: m}}}}"
    )
    (error,) = compose(project).mistakes
    composed = "".join(path.read_text() for path in (project / "build").rglob("*") if path.is_file())
    assert "hf_planted" not in str(error) + composed
    return str(error)


def test_a_secret_is_refused_as_the_entry_is_composed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted/1234")
    monkeypatch.setenv("NAME", "HF_TOKEN")
    monkeypatch.setenv("HUB", "https://me:hf_planted@hub/")
    monkeypatch.setenv("OTHER", "x-hf_planted/1234")
    at = "params.yaml: models.m.model.factory.name: "
    token = f"{at}HF_TOKEN is a secret by its name: {WHY} Read HF_TOKEN from the environment in the code that needs it."
    assert mistake(project, "'${oc.env:HF_TOKEN}'") == token
    assert mistake(project, "'${oc.env:HF_TOKEN,none}'") == token
    assert mistake(project, "'x${oc.decode:${oc.env:HF_TOKEN}}'") == token
    monkeypatch.delenv("HF_TOKEN")
    assert mistake(project, "'${oc.env:HF_TOKEN}'") == token  # it would be one elsewhere
    monkeypatch.setenv("HF_TOKEN", "hf_planted/1234")
    mend = "Read the environment in the code that needs it."
    held = token.replace("HF_TOKEN is a secret", "it holds the value of HF_TOKEN, a secret", 1)
    for dynamic in ("'${oc.env:${oc.env:NAME}}'", "'${oc.env:OTHER}'"):
        assert mistake(project, dynamic) == held
    assert mistake(project, "'${oc.env:HUB}'") == f"{at}the URL holds a password: {WHY} {mend}"
    assert mistake(project, "'https://me:word@hub/'") == f"{at}the URL holds a password: {WHY} {mend}"
    assert mistake(project, "'https://hub/?token=word'") == f"{at}the URL holds a token: {WHY} {mend}"


def test_what_is_remembered_of_the_environment_is_a_digest(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is interpolated may be any, so that all of the environment counts: as a digest alone."""
    monkeypatch.setenv("NAME", "WIDTH")
    monkeypatch.setenv("WIDTH", "24")
    monkeypatch.setenv("UNUSED_VARIABLE", "planted-value-1234")
    width = "'${oc.decode:${oc.env:${oc.env:NAME}}}'"
    (project / "params.yaml").write_text(
        f"models: {{m: {{use: digits, model: {{factory: {{width: {width}}}}}}}}}\nengines: {{e: {{model: m}}}}"
    )
    result = compose(project)
    assert result.models["m"]["model"]["factory"]["width"] == 24
    written = b"".join(path.read_bytes() for path in (project / "build").rglob("*") if path.is_file())
    assert b"planted-value-1234" not in written
    monkeypatch.setenv("WIDTH", "40")
    assert compose(project).models["m"]["model"]["factory"]["width"] == 40


def test_the_error_of_a_name_holds_no_secret(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted/1234")
    (project / "params.yaml").write_text("models: {'hf_planted/1234': {}}\nengines: {e: {model: digits}}")
    with pytest.raises(ConfigError) as error:
        compose(project)
    assert "hf_planted" not in str(error.value)
