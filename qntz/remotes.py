"""DVC's remotes: that what they deliver is whole, and that git keeps none of their secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qntz.errors import ConfigError
from qntz.redact import credentials_in, is_secret

COMMITTED, LOCAL = ".dvc/config", ".dvc/config.local"  # the second overrides the first
VERIFIED: Mapping[str, bool | None] = {  # by scheme, what `verify` is where it is not set; None: DVC has none there
    "azure": False,
    "gdrive": True,
    "gs": False,
    "hdfs": None,
    "http": False,
    "https": False,
    "oss": True,
    "s3": False,
    "ssh": False,
    "webdav": False,
    "webdavs": False,
    "webhdfs": False,
}
SECRETS = ("ssh_private",)  # beside those that their names tell
HARMLESS = (
    frozenset(  # by their names they would be secrets, and are switches, paths, identifiers, and names of headers
        (
            "access_key_id",
            "ask_passphrase",
            "ask_password",
            "auth",
            "bearer_token_command",
            "custom_auth_header",
            "exclude_environment_credential",
            "exclude_managed_identity_credential",
            "exclude_shared_token_cache_credential",
            "exclude_visual_studio_code_credential",
            "gdrive_user_credentials_file",
            "gss_auth",
            "key_path",
            "oss_key_id",
            "sse_kms_key_id",
        )
    )
)
_NAMED = re.compile(r"\s*(?P<kind>remote|machine|db)\s*\"(?P<name>.*)\"\s*")
_URL = re.compile(r"(?P<scheme>\w+)://(?P<host>[^/]*)")
Options = Mapping[str, Any]


def dvc_root(root: Path) -> Path | None:
    """The folder of DVC's repository that the project at `root` belongs to, there or above; None without one."""
    return next((folder for folder in (root, *root.parents) if (folder / ".dvc").is_dir()), None)


def require_sound(root: Path) -> None:
    """Raises ConfigError for a remote at a URL that is not verified, by its `verify` or by DVC's default: that would
    take a file that was cut short for a whole one (what comes from a folder is always compared); and for a secret in
    the file that git keeps.
    """
    top = dvc_root(root)
    if top is None:
        return
    committed, local = _sections(top / COMMITTED), _sections(top / LOCAL)
    shown, shown_local = (os.path.relpath(top / name, root) for name in (COMMITTED, LOCAL))
    for (kind, name), options in committed.items():
        found = next(_secrets(options), "")
        if found:
            how = "`dvc remote modify --local`" if kind == "remote" else f"{LOCAL}, which git does not keep"
            raise ConfigError(
                f"{found} stands in a file that git keeps",
                where=f"{shown}: {kind} {name!r}" if name else f"{shown}: {kind}",
                do=f"Take it out, and give it by the environment, or by {how}.",
            )
    remotes = {key: {**committed.get(key, {}), **local.get(key, {})} for key in {**committed, **local}}
    for key, options in remotes.items():
        scheme, verify = _reached(remotes, options) if key[0] == "remote" else ("", "")
        if scheme in ("", "file") or str(verify).lower() == "true" or (verify is None and VERIFIED.get(scheme)):
            continue
        name = key[1]
        there = key not in committed or "verify" in local.get(key, {})  # where it has to be mended
        do = f"Run `dvc remote modify {'--local ' if there else ''}{name} verify true`."
        if VERIFIED.get(scheme, False) is None:
            do = f"DVC has no `verify` for {scheme}://: take a remote of another kind" + (
                ", webhdfs:// for the same files." if scheme == "hdfs" else "."
            )
        raise ConfigError(
            "what it delivers is not compared with its digest",
            where=f"{shown_local if there else shown}: remote {name!r}",
            why="a file that was cut short, or replaced, would be taken for the right one",
            do=do,
        )


def without_secrets(options: Options) -> dict[str, Any]:
    """A remote's options, but for those that hold a secret, which every machine is to have of its own."""
    return {key: value for key, value in options.items() if not any(_secrets({key: value}))}


def _secrets(options: Options) -> Iterator[str]:
    """What of a section git must not keep, in words."""
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _secrets(value)
        elif value and key not in HARMLESS and (is_secret(key) or key in SECRETS):
            yield key
        else:
            text = value if isinstance(value, str) else ",".join(map(str, value))
            yield from (f"a {kind} in its {key}" for kind, _ in credentials_in(text))


def _reached(remotes: Mapping[tuple[str, str], Options], options: Options) -> tuple[str, str | None]:
    """The scheme that a remote is reached by, "" where that is no URL, and its `verify`, None where it is not set: of
    `remote://other/folder` what the other has, as far as it has none of its own. As DVC has it."""
    seen = set()
    while url := _URL.match(str(options.get("url", ""))):
        if url["scheme"] != "remote":
            return url["scheme"], options.get("verify")
        other = ("remote", url["host"].lower())
        if other in seen or other not in remotes:
            break  # DVC refuses it
        seen.add(other)
        options = {**remotes[other], **options, "url": remotes[other].get("url", "")}
    return "", None


def _sections(path: Path) -> dict[tuple[str, str], Options]:
    """A file of DVC's configuration as DVC reads it: the options of each section, by kind and name. None where DVC,
    which has read the file before, cannot read it either."""
    from configobj import ConfigObj, ConfigObjError

    try:
        read = _lowered(ConfigObj(path.read_text(encoding="utf-8").splitlines()).dict())
    except (OSError, ConfigObjError, UnicodeDecodeError):
        return {}
    sections = {}
    for section, options in read.items():
        named = _NAMED.fullmatch(section)
        if isinstance(options, Mapping):
            sections[(named["kind"], named["name"]) if named else (section, "")] = options
    return sections


def _lowered(options: Options) -> dict[str, Any]:
    return {key.lower(): _lowered(value) if isinstance(value, Mapping) else value for key, value in options.items()}
