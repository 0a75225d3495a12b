"""Remotes that DVC would take a cut file from, or that have a secret where git keeps it: refused by compose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qntz.errors import ConfigError
from qntz.redact import is_secret
from qntz.remotes import HARMLESS, SECRETS, VERIFIED, dvc_root, require_sound

S3 = "['remote \"shared\"']\n    url = s3://models/cache\n    endpointurl = http://127.0.0.1:9\n"


def given(root: Path, config: str, local: str = "") -> None:
    (root / ".dvc").mkdir(exist_ok=True)
    (root / ".dvc/config").write_text(config)
    (root / ".dvc/config.local").write_text(local)


@pytest.mark.parametrize("more", ["", "    verify = false\n", "    verify = no\n"])
def test_a_remote_that_is_not_verified_is_refused(tmp_path: Path, more: str) -> None:
    given(tmp_path, f"[core]\n    remote = shared\n{S3}{more}")
    with pytest.raises(ConfigError) as error:
        require_sound(tmp_path)
    assert str(error.value) == (
        ".dvc/config: remote 'shared': what it delivers is not compared with its digest: a file that was cut short, or"
        " replaced, would be taken for the right one. Run `dvc remote modify shared verify true`."
    )


@pytest.mark.parametrize(
    ("config", "local"),
    [
        ("", ""),
        ("[core]\n    analytics = false\n", ""),
        (f"{S3}    verify = true\n", ""),
        (f"{S3}    verify = True\n    access_key_id = 100%s\n", ""),
        (f"{S3}    verify = true  # compared\n", ""),
        (f"{S3}        verify = true\n", ""),
        (f"{S3.replace('remote', 'REMOTE')}    VERIFY = true\n", ""),
        ("['remote \"shared\"']\n    url = file:///srv/cache\n", ""),
        ("['remote \"drive\"']\n    url = gdrive://folder/x\n", ""),
        ("['remote \"drive\"']\n    url = oss://bucket/x\n", ""),
        (f"{S3}    verify = true\n['remote \"images\"']\n    url = remote://Shared/images\n", ""),
        (
            f"{S3}    verify = true\n['remote \"a\"']\n    url = remote://b/x\n['remote \"b\"']\n    url = remote://shared/x\n",
            "",
        ),
        ("['remote \"folder\"']\n    url = ../cache\n['remote \"images\"']\n    url = remote://folder/images\n", ""),
        ("['remote \"a\"']\n    url = remote://b/x\n['remote \"b\"']\n    url = remote://a/x\n", ""),
        ("['remote \"a\"']\n    url = remote://nowhere/x\n", ""),
        (S3, "['remote \"shared\"']\n    verify = true\n"),
        ("['remote \"shared\"']\n    url = ../cache\n", ""),
        ("['remote \"shared\"']\n    url = /srv/cache\n", ""),
        ("no ini file", ""),
    ],
)
def test_others_are_taken(tmp_path: Path, config: str, local: str) -> None:
    given(tmp_path, config, local)
    require_sound(tmp_path)


@pytest.mark.parametrize(
    ("config", "local", "where", "do"),
    [
        (f"{S3}    verify = true\n", "['remote \"other\"']\n    url = https://host/x\n",
         ".dvc/config.local: remote 'other'", "Run `dvc remote modify --local other verify true`."),
        (f"{S3}    verify = true\n", "['remote \"shared\"']\n    verify = false\n",
         ".dvc/config.local: remote 'shared'", "Run `dvc remote modify --local shared verify true`."),
        (f"{S3}    verify = true\n['remote \"images\"']\n    url = remote://shared/x\n    verify = false\n", "",
         ".dvc/config: remote 'images'", "Run `dvc remote modify images verify true`."),
        ("['remote \"drive\"']\n    url = gdrive://folder/x\n    verify = false\n", "",
         ".dvc/config: remote 'drive'", "Run `dvc remote modify drive verify true`."),
        ("['remote \"cluster\"']\n    url = hdfs://host/x\n", "", ".dvc/config: remote 'cluster'",
         "DVC has no `verify` for hdfs://: take a remote of another kind, webhdfs:// for the same files."),
    ],
)  # fmt: skip
def test_where_it_has_to_be_mended_and_how(tmp_path: Path, config: str, local: str, where: str, do: str) -> None:
    """Where a command is told, it is one that DVC takes, and helps."""
    given(tmp_path, config, local)
    with pytest.raises(ConfigError) as error:
        require_sound(tmp_path)
    assert str(error.value).startswith(f"{where}: what it delivers is not compared with its digest: ")
    assert str(error.value).endswith(f" {do}")
    if do.startswith("Run"):
        command = do.split("`")[1].split()
        subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, check=True, timeout=60)
        require_sound(tmp_path)


def test_what_dvc_does_by_default_is_what_its_schema_says() -> None:
    from dvc.config_schema import REMOTE_SCHEMAS

    defaults = {}
    for scheme, schema in REMOTE_SCHEMAS.items():
        found = [key for key in schema if str(key) == "verify"]
        defaults[scheme] = found[0].default() if found else None
    del defaults[""], defaults["remote"]  # folders, which DVC always compares; and what another remote has
    assert defaults == VERIFIED


def test_each_option_of_dvc_that_is_a_secret_is_known_as_one() -> None:
    from dvc.config_schema import REMOTE_SCHEMAS, SCHEMA

    def options(schema: object) -> set[str]:
        schema = getattr(schema, "schema", schema)
        if not isinstance(schema, dict):
            return set()
        keys = {getattr(key, "schema", key) for key in schema}
        return {key for key in keys if isinstance(key, str)}.union(*map(options, schema.values()))

    every = options(SCHEMA).union(*map(options, REMOTE_SCHEMAS.values()))
    assert {key for key in every - HARMLESS if is_secret(key) or key in SECRETS} == {
        "account_key", "client_secret", "connection_string", "gdrive_client_secret", "oss_key_secret", "passphrase",
        "password", "sas_token", "secret_access_key", "session_token", "sse_customer_key", "ssh_private", "token",
    }  # fmt: skip
    assert every >= {*HARMLESS, *SECRETS}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("    secret_access_key = planted\n", "secret_access_key"),
        ("    password = planted\n", "password"),
        ("    passphrase = planted\n", "passphrase"),
        ("        secret_access_key = planted\n", "secret_access_key"),
        ("    SECRET_ACCESS_KEY = planted  # of CI\n", "secret_access_key"),
        ("    url = https://me:planted@host/x\n", "a password in its url"),
        ("    url = https://host/x?page=2&token=planted\n", "a token in its url"),
        ("    url = 'https://host/x,y?sv=2024&sig=planted'\n", "a token in its url"),
        ("    endpointurl = https://me:planted@host\n", "a password in its endpointurl"),
    ],
)
def test_a_secret_belongs_into_the_local_file_or_the_environment(tmp_path: Path, line: str, told: str) -> None:
    key = line.split()[0]
    others = "".join(one for one in S3.splitlines(True) if not one.startswith(f"    {key} "))
    given(tmp_path, f"{others}    verify = true\n{line}")
    with pytest.raises(ConfigError) as error:
        require_sound(tmp_path)
    assert str(error.value) == (
        f".dvc/config: remote 'shared': {told} stands in a file that git keeps. Take it out, and give it by the"
        " environment, or by `dvc remote modify --local`."
    )
    given(tmp_path, f"{S3}    verify = true\n", f"['remote \"shared\"']\n{line}")
    require_sound(tmp_path)


@pytest.mark.parametrize(
    ("section", "where"),
    [
        ("[studio]\n    token = planted\n", "studio: token"),
        ("['db \"mine\"']\n    password = planted\n", "db 'mine': password"),
        ("[db]\n    [[mine]]\n    password = planted\n", "db: password"),
        ("['machine \"mine\"']\n    ssh_private = planted\n", "machine 'mine': ssh_private"),
        ("[studio]\n    repo_url = https://me:planted@host/x\n", "studio: a password in its repo_url"),
    ],
)
def test_in_whatever_section_it_stands(tmp_path: Path, section: str, where: str) -> None:
    given(tmp_path, f"[core]\n    remote = shared\n{S3}    verify = true\n{section}")
    with pytest.raises(ConfigError) as error:
        require_sound(tmp_path)
    assert str(error.value) == (
        f".dvc/config: {where} stands in a file that git keeps. Take it out, and give it by the environment, or by"
        " .dvc/config.local, which git does not keep."
    )


def test_what_only_looks_like_a_secret_is_taken(tmp_path: Path) -> None:
    harmless = "".join(f"    {key} = something\n" for key in sorted(HARMLESS))
    given(tmp_path, f"{S3}    verify = true\n    password =\n{harmless}")
    require_sound(tmp_path)


def test_the_configuration_of_a_project_below_the_root_of_dvc(tmp_path: Path) -> None:
    project = tmp_path / "engines/vision"
    project.mkdir(parents=True)
    assert dvc_root(project) is None
    require_sound(project)
    given(tmp_path, S3)
    assert dvc_root(project) == tmp_path
    with pytest.raises(ConfigError, match="^../../.dvc/config: remote 'shared': what it delivers is not compared"):
        require_sound(project)
    given(tmp_path, f"{S3}    verify = true\n    password = planted\n")
    with pytest.raises(ConfigError, match="^../../.dvc/config: remote 'shared': password stands in a file"):
        require_sound(project)
    given(project, f"{S3}    verify = true\n")  # a repository of DVC of its own
    require_sound(project)


@pytest.mark.parametrize("below", ["", "engines"])
def test_nothing_is_composed_with_such_a_remote(tmp_path: Path, below: str) -> None:
    given(tmp_path, S3)
    (tmp_path / below).mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "stages.compose"], cwd=tmp_path / below, capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": str(Path(__file__).parent.parent.parent)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: compose: {'../' if below else ''}.dvc/config: remote 'shared': ")
    assert done.stderr.count("\n") == 1
