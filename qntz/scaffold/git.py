"""What git says."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git(folder: Path, *arguments: str, stdin: str = "") -> str | None:
    """What git prints; None where it fails, as outside of a repository, and where it is not installed."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, input=stdin, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def branch(folder: Path) -> str:
    """The branch that a repository is about: the remote's own, main or master where there is one, or else the one that
    is checked out; of a repository that is yet to be made the one that git is told to begin with, or main."""
    if git(folder, "rev-parse", "--git-dir") is None:
        return git(folder, "config", "--get", "init.defaultBranch") or "main"
    if remote := git(folder, "symbolic-ref", "--short", "refs/remotes/origin/HEAD"):
        return remote.partition("/")[2]
    known = (name for name in ("main", "master") if git(folder, "rev-parse", "--verify", f"refs/heads/{name}"))
    return next(known, None) or git(folder, "symbolic-ref", "--short", "HEAD") or "main"
