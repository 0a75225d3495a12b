"""DVC's view of the workspace, opened as DVC's own commands open it, with its errors in one line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qntz.errors import QntzError, UsageError, did_you_mean
from qntz.pipelines import locks, shown

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.repo.index import Index
    from dvc.stage import Stage


class DvcError(QntzError):
    """DVC refuses something: its files are damaged, or another DVC is at work."""


@contextlib.contextmanager
def opened(root: Path, leave_out: Collection[Path] = ()) -> Iterator[Repo]:
    """DVC's repository at the project's root, with dvc.lock as it is now: DVC's lock is held while that is read, and
    not after, so that a run goes on meanwhile.

    Args:
        leave_out: folders whose pipelines are not read, as if there were none.

    Raises:
        DvcError: what DVC refuses, in one line.
    """
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.lock import LockError, LockNoop
    from dvc.repo import Repo, lock_repo

    from qntz.provenance.records import Records
    from qntz.repro.mend import DVC_LOCK, damage, dvc_lock

    try:
        with contextlib.closing(Repo(str(root))) as repo:
            repo.fs = Records(dvc_lock(Path(repo.tmp_dir), DVC_LOCK))
            repo.lock = LockNoop()  # what DVC's functions ask for, and nobody waits for
            with lock_repo(repo):
                if leave_out:
                    repo.index = _index(repo, {str(folder) for folder in leave_out})
                yield repo
    except NotDvcRepoError:
        raise DvcError(
            "is no project of DVC", where=str(root), do="Run it from the project's root (or `dvc init` there)."
        ) from None
    except LockError:
        do = "Run it again in a moment."
        raise DvcError("another DVC is at work here, and writes it", where="dvc.lock", do=do) from None
    except FileNotFoundError as error:
        do = "Run it again in a moment."
        raise DvcError("went away while it was read", where=str(error.filename), do=do) from None
    except OSError as error:
        raise DvcError("cannot be used", where=str(error.filename), why=error.strerror or str(error)) from error
    except DvcException as error:
        text = " ".join(str(error).split())
        named = [lock.as_posix() for lock in reversed(locks(root)) if lock.as_posix() in text]  # the longest first
        found = damage(root / named[0], named[0]) if named else None
        if found is not None and not found.cut:
            raise found.error() from error
        do = "`qntz repro` mends it." if found is not None else ""
        raise DvcError("DVC refuses it", why=text or type(error).__name__, do=do) from error


def _index(repo: Repo, leave_out: Collection[str]) -> Index:
    """DVC's index, as its `collect_files` finds the files for it, without those in some folders."""
    from dvc.dvcfile import is_valid_filename
    from dvc.repo.index import Index

    found = []
    outs: set[str] = set()
    for folder, below, files in repo.dvcignore.walk(repo.fs, repo.root_dir, followlinks=False):
        for name in filter(is_valid_filename, files):
            path = repo.fs.join(folder, name)
            if not repo.scm.is_ignored(path):
                found.append(Index.from_file(repo, path))
                outs |= {out.fs_path for stage in found[-1].stages for out in stage.outs if out.protocol == "local"}
        kept = {one: repo.fs.join(folder, one) for one in below}
        below[:] = [
            n for n, p in kept.items() if p not in leave_out and p not in outs and not repo.scm.is_ignored(f"{p}/")
        ]
    return Index.from_indexes(repo, found)


def name_of(stage: Stage) -> str:
    """A stage's name as users write it: without the file of the model's pipeline that it may stand in."""
    return shown(str(stage.addressing))


def steps(repo: Repo, targets: tuple[str, ...]) -> list[Stage]:
    """The stages that `dvc repro TARGETS` goes through, in its order.

    Raises:
        UsageError: a target that DVC does not know.
    """
    from dvc.dvcfile import PROJECT_FILE
    from dvc.exceptions import NoOutputOrStageError
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
    from dvc.stage.exceptions import StageFileDoesNotExistError, StageNotFound

    every = list(repo.index.stages)
    named = {stage.addressing: stage for stage in every}
    named |= {name_of(stage): stage for stage in every}
    # those of dvc.yaml are loaded already; DVC would read the whole of dvc.lock again for them
    wanted = [] if targets else [stage for stage in every if stage.path == os.path.abspath(PROJECT_FILE)]
    for target in targets:
        try:
            if not target:  # all, to DVC
                raise NoOutputOrStageError(target, PROJECT_FILE)
            wanted += [named[target]] if target in named else collect_stages(repo, [target])
        except (NoOutputOrStageError, StageNotFound, StageFileDoesNotExistError) as error:
            known = list(named)
            raise UsageError(f"no stage {target!r}", where="dvc.yaml", do=did_you_mean(target, known)) from error
    return plan_repro(get_active_graph(repo.index.graph), list(dict.fromkeys(wanted))) if wanted else []
