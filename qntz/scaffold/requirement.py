"""What a project says of the qntz that it needs: CI installs it from there. Never by its name alone: the qntz of PyPI
is another project, with versions of the same numbers."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import qntz
from qntz.scaffold.git import git

PLACES = ("requirements.txt", "pyproject.toml", "setup.py", "setup.cfg")
EXAMPLE = "qntz @ git+https://...@COMMIT"
UNKNOWN = f"# qntz: say where it is to be installed from, e.g. {EXAMPLE}"
_SCP = re.compile(r"(?:(?P<user>[\w.-]+)@)?(?P<host>[\w.-]{2,}):(?P<path>(?!//).+)")  # git@example.org:us/qntz.git


def requirement() -> str | None:
    """This qntz as a requirement that another machine can install: the repository or archive that it was installed
    from, or the commit of the clone. None where that is not known: of a folder without a remote, of a wheel."""
    told = _direct_url()
    url = str(told.get("url", ""))
    if vcs := told.get("vcs_info"):
        return f"qntz @ {vcs['vcs']}+{url}@{vcs['commit_id']}{_subdirectory(told.get('subdirectory', ''))}"
    if not url.startswith("file:"):
        return f"qntz @ {url}{_subdirectory(told.get('subdirectory', ''))}" if url else None
    return _of_clone(Path(unquote(urlsplit(url).path)))


def unpushed(asked: str) -> bool:
    """Whether a requirement of `requirement` names a commit of the clone here that no branch of its remote has yet."""
    url = str(_direct_url().get("url", ""))
    found = re.search(r"@([0-9a-f]{40})(?:#|$)", asked)
    if found is None or not url.startswith("file:"):
        return False
    return not git(_folder(Path(unquote(urlsplit(url).path))), "branch", "--remotes", "--contains", found[1])


def _direct_url() -> Mapping[str, Any]:
    """Where this qntz was installed from, as PEP 610 has it; the clone that it is imported from where it was not
    installed; nothing where an index or a folder of wheels delivered it."""
    try:
        text = importlib.metadata.distribution("qntz").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        text = None
    if text:
        told: Mapping[str, Any] = json.loads(text)
        return told
    tree = Path(qntz.__file__).parent.parent
    return {"url": tree.as_uri(), "dir_info": {}} if (tree / "pyproject.toml").is_file() else {}


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _of_clone(path: Path) -> str | None:
    """The commit of the clone that is a folder, or that an archive lies in."""
    folder = _folder(path)
    top = Path(git(folder, "rev-parse", "--show-toplevel") or folder)
    below = folder if path.is_dir() else top  # a wheel lies in dist/, or in a clone of something else
    if not (below / "qntz" / "scaffold" / "table.py").is_file():
        return None
    url, commit = _url(git(folder, "remote", "get-url", "origin") or ""), git(folder, "rev-parse", "--verify", "HEAD")
    if not url or not commit:
        return None
    inside = below.resolve().relative_to(top.resolve()).as_posix()
    return f"qntz @ git+{url}@{commit}{_subdirectory(inside)}"


def _subdirectory(inside: str) -> str:
    return f"#subdirectory={inside}" if inside not in ("", ".") else ""


def _url(remote: str) -> str:
    """The URL of a remote that another machine can read, as pip takes it and without credentials; "" for any other."""
    if "://" not in remote and (match := _SCP.fullmatch(remote)):
        user = f"{match['user']}@" if match["user"] else ""
        return f"ssh://{user}{match['host']}/{match['path'].lstrip('/')}"
    told = urlsplit(remote)
    if told.scheme not in ("https", "ssh") or not told.hostname:
        return ""
    user, _, host = told.netloc.rpartition("@")
    kept = f"{user.partition(':')[0]}@" if user and told.scheme == "ssh" else ""  # for https it may be a token
    return f"{told.scheme}://{kept}{host}{told.path}"


def lacking(root: Path) -> str | None:
    """The file by which a project is installed and that does not name qntz, but in a comment; None where one does, or
    there is none."""
    found = [root / name for name in PLACES if (root / name).is_file()]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in found]
    if not found or any(re.search(r"^[^#\n]*\bqntz\b", text, re.MULTILINE) for text in texts):
        return None
    return found[0].name
