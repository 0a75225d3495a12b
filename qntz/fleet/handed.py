"""What workers are handed besides their stages: the commit and where it is cloned from, DVC's remote, and DVC's locks
where they are others than the commit's."""

from __future__ import annotations

import re
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

from qntz import pipelines
from qntz.errors import ConfigError
from qntz.fleet.requests import FleetConfig
from qntz.redact import credentials_in
from qntz.remotes import without_secrets

OF_DVC = (pipelines.DVC_LOCK,)  # what may be another than the commit's
READ = (
    "conf",
    "pipelines",
    "plugins",
    "stages",
    "params.yaml",
    "dvc.yaml",
)  # where a new file is one that workers lack
_USER = re.compile(r"https?://[^/]*@", re.IGNORECASE)  # which may be a token


def shared(root: Path, config: FleetConfig) -> dict[str, Any]:
    """Of a task what is the same for all: the commit and where it is cloned from, the remote, and the folder.

    Raises:
        ConfigError: there is no commit, something is not committed, there is no git remote or DVC remote, or the
            address of the first holds a password.
    """
    git = partial(_git, root)
    commit = git("rev-parse", "HEAD")
    if not commit:
        raise ConfigError("there is no commit", where=str(root), do="Commit the project: workers check it out.")
    changed = [line[3:] for line in git("status", "--porcelain", "--untracked-files=no").splitlines()]
    changed = [path for path in changed if Path(path).name not in OF_DVC]
    there = [name for name in READ if (root / name).exists()]
    new = git("ls-files", "--others", "--exclude-standard", "--", *there).splitlines()
    if found := [*changed, *(path for path in new if Path(path).name not in OF_DVC)]:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        do = "Commit it: workers check out the commit."
        raise ConfigError("has changes that are not committed", where=f"{found[0]}{more}", do=do)
    repository, where = config.repository, "conf/fleet.yaml: repository"
    if not repository:
        repository, where = git("remote", "get-url", "origin"), "git's remote origin"
    if not repository:
        do = "Name one that the workers reach, or add a git remote `origin`."
        raise ConfigError("there is nothing to clone from", where="conf/fleet.yaml: repository", do=do)
    if credentials_in(repository) or _USER.match(repository):
        do = "Let workers have credentials of their own, and name the repository without."
        raise ConfigError("holds a password or token, which every worker would be handed", where=where, do=do)
    if Path(repository).expanduser().is_dir():
        repository = str(Path(repository).expanduser().resolve())
    elif not config.repository and not git("branch", "--remotes", "--contains", commit):
        raise ConfigError(f"{commit[:12]} is not there", where="origin", do="Run `git push`: workers check it out.")
    below = git("rev-parse", "--show-prefix")
    told = {"repository": repository, "commit": commit, "below": below, "folder": config.folder}
    return {**told, "remote": _remote(root)}


def locks(root: Path) -> dict[Path, str]:
    """DVC's locks that are others than the commit's, by path: what stands in them, "" for those that are gone."""
    changed = _git(root, "diff", "--name-only", "--relative", "-z", "HEAD")
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", f":(glob)**/{pipelines.DVC_LOCK}")
    names = {name for name in f"{changed}\0{new}".split("\0") if Path(name).name in OF_DVC}
    there = {Path(name): root / name for name in sorted(names)}
    return {name: path.read_text(encoding="utf-8") if path.is_file() else "" for name, path in there.items()}


def _remote(root: Path) -> dict[str, Any]:
    """DVC's default remote by its name, and its options without secrets; raises ConfigError where there is none, or one
    that results cannot travel by."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    from qntz.repro.run_cache import SharedCache

    with Repo(str(root)) as repo:
        name = repo.config.get("core", {}).get("remote")
        if not name:
            do = "Add one that the workers reach: dvc remote add -d NAME URL."
            raise ConfigError("DVC has no default remote", where=".dvc/config", why="results travel by it", do=do)
        try:
            SharedCache(repo, "repro --on")
        except DvcException as error:
            do = "Take one of plain files, without `version_aware` and `worktree`: a folder, S3, SSH or the like."
            why, where = " ".join(str(error).split()), f"DVC's remote {name!r}"
            raise ConfigError("workers cannot share results by it", where=where, why=why, do=do) from error
        options = {key: str(value) for key, value in repo.config["remote"][name].items() if value is not None}
    return {"name": name, "options": without_secrets(options)}


def _git(root: Path, *arguments: str) -> str:
    """What git says; "" where it fails."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.rstrip("\n") if done.returncode == 0 else ""
