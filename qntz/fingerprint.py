"""Digests of everything that a stage's result depends on and that DVC is not told of by itself.

Sources are followed statically, by their imports, functions' own imports included; nothing is imported. They are
digested as syntax trees without docstrings and positions, so that a comment rebuilds nothing.
"""

from __future__ import annotations

import ast
import glob
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qntz import plugins
from qntz.artifacts import BUILD, digest_file
from qntz.errors import ConfigError
from qntz.redact import SHORTEST, credentials_in, is_secret
from qntz.watch import OWN, Watched, distributions_in, files_in, is_installed, state

TRUSTED_AGE_NS = 2_000_000_000  # a file that changed less than two seconds before it was read may change again unseen
MISSING = "missing"
MOST_NAMED = 1000  # files of a folder that are told apart by name
PATH_KEYS = ("file", "files", "folder", "path")
# which device, of which torch, by which compiler: the same sources
_BUILT_FOR = re.compile(r"\+(?:pt\d+)?(?:cpu|cu\d+|rocm[\d.]*|xpu)(?:\.(?:with\.pypi\.cudnn|cxx11\.abi))?$")
# environment variables of the machine and of the process: a cache is shared by those that differ in them
_OF_MACHINES = frozenset(
    [
        *("CI", "CUDA_VISIBLE_DEVICES", "DISPLAY", "HF_HOME", "HOME", "HOSTNAME", "LANG", "LOCAL_RANK", "LOGNAME"),
        *("MASTER_ADDR", "MASTER_PORT", "MKL_NUM_THREADS", "NODE_RANK", "OLDPWD", "OMP_NUM_THREADS", "PATH", "PWD"),
        *("PYTHONPATH", "RANK", "SHELL", "TEMP", "TERM", "TMP", "TMPDIR", "TORCH_HOME", "USER", "VIRTUAL_ENV"),
        *("WORLD_SIZE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
    ]
)
CARRIERS = ("cuda", "pycuda")  # they only carry an engine's bytes to a GPU: a key with them would differ without one


def digest(value: Any) -> str:
    """SHA-256, in hex, of a value made of JSON's types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@dataclass
class Memo:
    """What is remembered of files between runs, in one JSON file; missing or damaged, it only costs time."""

    path: Path
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path, version: str) -> Memo:
        """The memo, empty where there is none of this version."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            data = {}
        if not isinstance(data, dict) or data.get("version") != version:
            data = {}
        return cls(path, data.get("files", {}), data.get("values", {}))

    def text(self, version: str) -> str:
        """The memo as it is kept: without files that are gone."""
        files = {path: entry for path, entry in self.files.items() if path in self._used or os.path.exists(path)}
        return json.dumps({"version": version, "files": files, "values": self.values})

    def of_file(self, path: Path, kind: str, make: Any) -> Any:
        """`make(path)`, remembered by path, size, mtime, ctime and inode."""
        self._used.add(str(path))
        status = path.stat()
        key = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        entry = self.files.get(str(path))
        if entry is None or entry["key"] != key:
            entry = self.files[str(path)] = {"key": key}
        if kind in entry:
            return entry[kind]
        value = make(path)
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > TRUSTED_AGE_NS:
            entry[kind] = value
        return value


@dataclass(frozen=True)
class Closure:
    """The sources that a module reaches, by module name, and the top-level names imported from outside."""

    files: dict[str, Path]
    outside: frozenset[str]
    unresolved: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Tool:
    """Of a stage the digest of its code, those of its plugins by name, the top-level names that these import from
    outside, the environment variables that those plugins read which do not come with qntz, whether there are such
    plugins, and what all of that was read from."""

    code: str
    plugins: dict[str, str]
    outside: frozenset[str]
    environment: frozenset[str]
    is_extended: bool
    watched: frozenset[Watched]


class Fingerprints:
    """Digests for the project at `root`, as it is now: each file is looked at once."""

    def __init__(self, root: Path, memo: Memo):
        self.root, self.memo = root, memo
        self.parts: dict[str, dict[str, str]] = {}
        """What the digests made so far are digests of, by name: for who asks which of them changed."""
        self.states: dict[Watched, Any] = {}
        """What was looked at, in the state that it was in before it was read (`qntz.watch`)."""
        self._watched: set[Watched] = set()
        self._package = Path(__file__).parent.parent
        self._seen: dict[tuple[Path, str], Any] = {}
        self._tools: dict[tuple[str, str | None], _Tool] = {}
        self._closures: dict[tuple[str, ...], Closure] = {}
        self._located: dict[str, Path | None] = {}
        self._tops: dict[str, list[Path]] = {}
        self._site = self._read_site()
        self._watched_site = frozenset(self._watched)

    # files

    def content(self, path: Path) -> str:
        """The digest of a file's or folder's content; "missing" where there is nothing."""
        if path.is_dir():
            self._watch("folder", path)
            watched, self._watched = self._watched, set()  # the folder stands for what is in it
            files = {str(p.relative_to(path)): self.content(p) for p in sorted(files_in(path))}
            self._watched = watched
            return self._whole(files, files if len(files) <= MOST_NAMED else {})
        if (path, "sha256") not in self._seen and not path.is_file():
            self._watch("file", path)
            return MISSING
        return self._of_file(path, "sha256", digest_file)

    def _watch(self, kind: str, path: Path | str) -> None:
        """Call it before what is there is read."""
        one = kind, str(path)
        if one not in self.states:
            self.states[one] = state(*one)
        self._watched.add(one)

    def _of_file(self, path: Path, kind: str, make: Any) -> Any:
        self._watch("file", path)
        if (path, kind) not in self._seen:
            self._seen[path, kind] = self.memo.of_file(path, kind, make)
        return self._seen[path, kind]

    def globbed(self, patterns: Iterable[str]) -> dict[str, str]:
        """The contents of files or globs relative to the root, by path."""
        found: dict[str, str] = {}
        for pattern in patterns:
            if glob.has_magic(pattern):
                self._watch("glob", self.root / pattern)
            matched = glob.glob(str(self.root / pattern), recursive=True) if glob.has_magic(pattern) else [pattern]
            paths = [self.root / match for match in sorted(matched)]
            found.update({self._shown(path): self.content(path) for path in paths})
        return found

    def _shown(self, path: Path) -> str:
        """A path as it is the same wherever the checkout lies: one that was given whole, to the outside, stays so."""
        shown = os.path.relpath(path, self.root)
        # the root joined with a relative path begins with the root, `..` or not
        return str(path) if shown.startswith(os.pardir) and not path.is_relative_to(self.root) else shown

    def _whole(self, value: Any, parts: dict[str, str]) -> str:
        """The digest of a value, whose parts are remembered by it."""
        found = digest(value)
        self.parts[found] = parts
        return found

    def source(self, path: Path) -> str:
        """The digest of a Python file's syntax tree, without docstrings and positions; of an extension its bytes'."""
        return self._python(path)["digest"] if path.suffix == ".py" else self.content(path)

    def _python(self, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = self._of_file(path, "python", _read_python)
        return found

    # closures

    def closure(self, modules: Iterable[str] = (), files: Iterable[Path] = ()) -> Closure:
        """Everything that modules and files import, transitively, outside of installed distributions."""
        key = (*sorted(modules), *sorted(map(str, files)))
        if key not in self._closures:
            self._closures[key] = self._walked(list(modules), list(files))
        return self._closures[key]

    def _walked(self, modules: list[str], files: list[Path]) -> Closure:
        found: dict[str, Path] = {}
        outside: set[str] = set()
        unresolved: set[str] = set()
        pending: list[tuple[str, Path | None]] = [(name, None) for name in modules]
        pending += [(self._named(path), path) for path in files]
        seen: set[str] = set()
        while pending:
            name, path = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            path = path or self._locate(name)
            if path is None:
                top = name.partition(".")[0]
                if top in sys.stdlib_module_names or top in CARRIERS:
                    continue
                (outside if self._installed(top) else unresolved).add(top)
                continue
            found[name] = path
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            pending += [(parent, None) for parent in _parents(name) if self._locate(parent)]
            for imported in self._python(path)["imports"] if path.suffix == ".py" else ():
                pending += [(n, None) for n in self._imported(self._beside(imported, package, path), package)]
        return Closure(found, frozenset(outside), frozenset(unresolved))

    def _beside(self, imported: list[Any], package: str, path: Path) -> list[Any]:
        """An import that nothing answers, as what lies beside the file that imports, or above: many a repository puts
        the folder on sys.path before."""
        module, level, names = imported
        top, *rest = module.split(".")
        is_own = package.partition(".")[0] in OWN  # whose backends are called as what they wrap
        if level or is_own or top in sys.stdlib_module_names or top in CARRIERS or self._locate(module):
            return imported
        if self._installed(top):
            return imported
        folder, parts = path.parent, package.split(".") if package else []
        for length in range(len(parts), 0, -1):
            within = folder.joinpath(top, *rest)
            if _module_file(folder / top, rest) or any(_module_file(within, [one]) for one in names):
                return [".".join([*parts[:length], module]), 0, names]
            folder = folder.parent
        return imported

    def _imported(self, imported: list[Any], package: str) -> list[str]:
        """The modules that one import statement loads: [module, level, names]."""
        module, level, names = imported
        if level:
            base = package.split(".")[: len(package.split(".")) - level + 1]
            module = ".".join([*base, *([module] if module else [])])
        if "*" in names:  # __all__ may name any module of the package
            folder = self._locate(module)
            inside = folder.parent.iterdir() if folder is not None and folder.name == "__init__.py" else ()
            names = sorted({p.name.partition(".")[0] for p in inside})
        return [module, *(f"{module}.{n}" for n in names if self._locate(f"{module}.{n}"))]

    def _named(self, path: Path) -> str:
        return os.path.relpath(path, self.root).removesuffix(".py").replace(os.sep, ".")

    def _locate(self, name: str) -> Path | None:
        """The file of a module that is no part of an installed distribution; qntz counts as source wherever it lies."""
        if name not in self._located:
            top, *rest = name.split(".")
            found = (_module_file(base / top, rest) for base in self._bases(top))
            self._located[name] = next((path for path in found if path is not None), None)
        return self._located[name]

    def _bases(self, top: str) -> list[Path]:
        """The folders outside of site-packages that a top-level module may lie in, the project's root first."""
        if top not in self._tops:
            bases = [self.root, *([self._package] if top == "qntz" else [])]
            bases += [Path(p) for p in sys.path if p and os.path.isdir(p) and not is_installed(p)]
            if top not in sys.stdlib_module_names and top not in self._site["top_level"]:
                try:  # editable installs may be found by an import hook alone
                    spec = importlib.util.find_spec(top)
                except (ImportError, ValueError):
                    spec = None
                if spec is not None and spec.origin and not is_installed(spec.origin):
                    origin = Path(spec.origin)
                    bases.append(origin.parent.parent if origin.name == "__init__.py" else origin.parent)
            self._tops[top] = list(dict.fromkeys(bases))
        return self._tops[top]

    # distributions

    def _read_site(self) -> dict[str, Any]:
        """The installed distributions, remembered until a folder of sys.path changes."""
        folders = [p for p in sys.path if p and Path(p) != self.root and distributions_in(p)]
        for folder in folders:
            self._watch("site", folder)
        key = [[p, os.stat(p).st_mtime_ns] for p in folders]
        site = self.memo.values.get("site")
        if site is None or site["key"] != key:
            site = self.memo.values["site"] = {"key": key, **_site()}
        return site

    def _installed(self, top: str) -> bool:
        return top in self._site["top_level"] or importlib.machinery.PathFinder.find_spec(top) is not None

    def versions(self, tops: Iterable[str]) -> dict[str, str]:
        """The version of every distribution that provides these top-level modules, by name, without the device that it
        was built for."""
        found = {}
        for top in tops:
            for name in self._site["top_level"].get(top, ()):
                found[name] = self._site["versions"][name]
        return dict(sorted(found.items()))

    # what a stage depends on

    def stage(
        self,
        stage: str,
        *,
        model: Mapping[str, Any] | None = None,
        data: Iterable[Mapping[str, Any] | None] = (),
        files: Iterable[str | None] = (),
        extra: Iterable[str] = (),
        order: Iterable[str] = (),
        backend: str | None = None,
    ) -> dict[str, Any]:
        """The `inputs.<stage>` section.

        Args:
            model: the model section, for the stages that import it.
            data: the data sections that the stage reads. files: further paths of data (probes).
            extra: files or globs that the code of the model, of the data or of plugins reads.
            order: names whose order means something, which a mapping in YAML does not keep for DVC; the orders of
                mappings in the model's factory and in the data sections are added.
            backend: the engine's; the shipped backends of other names cannot change it and are left out.
        """
        tool = self._tool(stage, backend)
        outside, self._watched = set(tool.outside), set(tool.watched)
        variables = set(tool.environment)
        section: dict[str, Any] = {"code": tool.code, "plugins": dict(tool.plugins)}
        ordered: list[Any] = list(order)
        if model is not None:
            closure = self.closure(_modules([model.get("factory")]))
            outside |= closure.outside
            variables |= self._variables(closure)
            ordered += _orders(model.get("factory") or {})
            exact = stage == "check"  # findings carry lines, and suppressions are comments
            named = sorted(set(self._paths(model.get("factory") or {})))
            section["model"] = self.sources(closure, exact)
            section["model_files"] = self.globbed(named)
            source = model.get("weights") or model.get("torchscript") or model.get("program")
            section["weights"] = self.content(self.root / source) if source else None
        sections = [d for d in data if d]
        paths = sorted({p for d in sections for p in self._paths(d)} | {f for f in files if f})
        closure = self.closure(_modules(sections))
        outside |= closure.outside
        variables |= self._variables(closure)
        ordered += [one for told in sections for one in _orders(told)]
        section["data"] = self.globbed(paths)
        section["extra"] = self.globbed(extra) if model is not None or sections or tool.is_extended else {}
        section["order"] = ordered
        section["environment"] = {name: _variable(name) for name in sorted(variables)}
        section["data_code"] = self.sources(closure) if closure.files or closure.unresolved else None
        section["tools"] = {"python": f"{sys.version_info[0]}.{sys.version_info[1]}", **self.versions(outside)}
        return section

    def watched(self) -> frozenset[Watched]:
        """What the last section of `stage` was made of."""
        return frozenset(self._watched)

    def _tool(self, stage: str, backend: str | None) -> _Tool:
        """What is the same for all entries: the digests of a stage's own code and of its plugins."""
        if (stage, backend) not in self._tools:
            code = self.closure([f"stages.{stage}"])
            outside, self._watched = set(code.outside), set(self._watched_site)
            sources, assets = self.sources(code), self._assets(code)
            found, variables, own = {}, set[str](), []
            for name, closure in self._plugins(stage, backend).items():
                outside |= closure.outside
                found[name] = self.sources(closure)
                if not name.startswith("builtin/"):
                    own.append(name)
                    variables |= self._variables(closure)
            self._watch("glob", self.root / plugins.FOLDER / "*.py")
            if any(name.startswith(f"{plugins.FOLDER}/") for name in own):
                found[f"{plugins.FOLDER}/"] = self._beside_plugins()
            whole = self._whole([sources, assets], {**self.parts[sources], **assets})
            watched = frozenset(self._watched)
            self._tools[stage, backend] = _Tool(
                whole, found, frozenset(outside), frozenset(variables), bool(own), watched
            )
        return self._tools[stage, backend]

    def _variables(self, closure: Closure) -> set[str]:
        """The environment variables that sources read, but for those of qntz and of machines."""
        of = (path for name, path in closure.files.items() if name.partition(".")[0] != "qntz" and path.suffix == ".py")
        return {one for path in of for one in self._python(path)["environment"]} - _OF_MACHINES

    def sources(self, closure: Closure, exact: bool = False) -> str:
        of = self.content if exact else self.source
        files = {name: of(path) for name, path in closure.files.items()}
        unresolved = sorted(closure.unresolved)
        return self._whole([files, unresolved], {**files, **dict.fromkeys(unresolved, MISSING)})

    def _assets(self, closure: Closure) -> dict[str, str]:
        """The contents of what lies beside qntz's own sources and is no Python: the templates."""
        packages = [
            (n, p.parent) for n, p in closure.files.items() if n.startswith("qntz.") and p.name == "__init__.py"
        ]
        assets = [(n, f) for n, folder in packages for f in sorted(folder.rglob("*")) if f.is_file()]
        return {
            f"{name}/{file.name}": self.content(file)
            for name, file in assets
            if file.suffix != ".py" and "__pycache__" not in file.parts
        }

    def _plugins(self, stage: str, backend: str | None) -> dict[str, Closure]:
        """The sources of the plugins that implement a hook which this stage calls, by name. An installed plugin counts
        for every stage, by its version, unless its source lies outside of site-packages."""
        found: dict[str, Closure] = {}
        for path in plugins.builtin_files():
            other = path.stem != backend and self._hooks(path) == ["qntz_backends"]  # such a file is named after it
            if not other and self._implements(path, stage):
                found[f"builtin/{path.name}"] = self.closure([f"{plugins.BUILTIN}.{path.stem}"])
        for path in plugins.local_files(self.root):
            if self._implements(path, stage):
                found[f"{plugins.FOLDER}/{path.name}"] = self.closure(files=[path])
        for name, module in self._site["plugins"]:
            found[name] = self.closure([module])
        return found

    def _beside_plugins(self) -> str:
        """The contents of what lies in plugins/ and is no Python: any plugin may open it."""
        folder = self.root / plugins.FOLDER
        beside = {
            os.path.relpath(path, self.root): self.content(path)
            for path in (files_in(folder) if folder.is_dir() else ())
            if not path.name.endswith((".py", "~"))
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        }
        return self._whole(beside, beside)

    def _implements(self, path: Path, stage: str) -> bool:
        return plugins.concerns(self._hooks(path), stage)

    def _hooks(self, path: Path) -> list[str] | None:
        hooks: list[str] | None = self._of_file(path, "hooks", plugins.hooks_in)
        return hooks

    def _paths(self, data: Any, key: str = "") -> Iterable[str]:
        """The paths that a data section names: values of file, files, folder and path, and whatever exists."""
        if isinstance(data, Mapping):
            for k, value in data.items():
                if k not in ("source", "_target_"):
                    yield from self._paths(value, str(k))
        elif isinstance(data, (list, tuple)):
            for value in data:
                yield from self._paths(value, key)
        elif isinstance(data, str) and data:
            is_all = self._holds_all(data)
            if key in PATH_KEYS and is_all:
                do = "Name a folder in it."
                raise ConfigError("is the whole project, and changes with each run", where=f"{key}: {data}", do=do)
            if key in PATH_KEYS or (not is_all and self._is_path(data)):
                yield data

    def _holds_all(self, text: str) -> bool:
        """Whether a path, as "." or "/", holds this checkout with all that a run writes."""
        return os.path.isdir(self.root / text) and self.root.resolve().is_relative_to((self.root / text).resolve())

    def _is_path(self, text: str) -> bool:
        """Whether a value that no key calls a path is one all the same: it is there."""
        path = self.root / text
        return os.path.exists(path) and not path.resolve().is_relative_to((self.root / BUILD).resolve())


def _variable(name: str) -> str | None:
    """The digest of an environment variable's value, None where it is not set; of a secret only that it is set: it
    decides what may be read, and not what that says."""
    value = os.environ.get(name)
    if value is None:
        return None
    # what is too short to be one is a switch, as USE_CLS_TOKEN=1
    if (is_secret(name) and len(value) >= SHORTEST) or credentials_in(value):
        return "set"
    return hashlib.sha256(os.fsencode(value)).hexdigest()


def _modules(sections: Iterable[Any]) -> list[str]:
    """The modules of the `_target_`s in sections, nested ones included."""
    found: set[str] = set()
    pending = list(sections)
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            if isinstance(value.get("_target_"), str):
                found.add(value["_target_"].rpartition(".")[0])
            pending += value.values()
        elif isinstance(value, (list, tuple)):
            pending += value
    return sorted(found - {""})


def _module_file(base: Path, rest: list[str]) -> Path | None:
    base = base.joinpath(*rest)
    if (base / "__init__.py").is_file():
        return base / "__init__.py"
    suffixes = importlib.machinery.all_suffixes()
    return next((p for p in (base.with_name(base.name + suffix) for suffix in suffixes) if p.is_file()), None)


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _read_python(path: Path) -> dict[str, Any]:
    """The digest of a Python file's syntax tree, its import statements as [module, level, names], and the environment
    variables that it reads by name."""
    try:
        source = path.read_bytes()
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # the stage that imports it gives the error; its bytes stand for it until then
        return {"digest": digest_file(path), "imports": [], "environment": []}
    imports = sorted(_imports(tree))  # before the docstrings go
    environment = sorted(_variables(tree)) if b"env" in source else []
    # the one kind of comment that means something: TorchScript takes types from it
    types = [line.decode(errors="replace") for line in re.findall(rb"#\s*type:[^\n]*", source)]
    try:
        found = digest([_source_digest(tree), types])
    except RecursionError:  # an `elif` of hundreds of branches, which Python itself reads well
        found = digest_file(path)
    return {"digest": found, "imports": imports, "environment": environment}


def _source_digest(tree: ast.Module) -> str:
    """Without docstrings and positions; empties the docstrings in place."""
    for node in _statements(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                first.value.value = ""
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """The module, its statements and what groups them, nested ones included; no expressions, which hold none."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, (ast.Assign, ast.Expr, ast.Return)):  # the most frequent ones that hold no others
            pending += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]


def _is_type_checking(test: ast.expr) -> bool:
    name = test.id if isinstance(test, ast.Name) else test.attr if isinstance(test, ast.Attribute) else ""
    return name == "TYPE_CHECKING"


def _imports(tree: ast.Module) -> list[list[Any]]:
    """The import statements, functions' own included; those for type checking only are left out."""
    found: list[list[Any]] = []
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            pending += node.orelse
        elif isinstance(node, ast.Import):
            found += [[alias.name, 0, []] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append([node.module or "", node.level, sorted(alias.name for alias in node.names)])
        elif not isinstance(node, ast.expr):  # no statement stands inside an expression
            pending += ast.iter_child_nodes(node)
    return found


def _variables(tree: ast.Module) -> set[str]:
    """The environment variables that are read by a name that stands there: os.environ["A"], os.environ.get("A"),
    os.getenv("A"), "A" in os.environ, and by other names of these two."""
    called = {"environ": {"environ"}, "getenv": {"getenv"}}
    for node in ast.walk(tree):  # from os import environ as e; e = os.environ
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                called.get(alias.name, set()).add(alias.asname or alias.name)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr in called:
            called[node.value.attr].update(one.id for one in node.targets if isinstance(one, ast.Name))

    def is_called(node: ast.expr, name: str) -> bool:
        of_os = isinstance(node, ast.Attribute) and node.attr == name
        return of_os or (isinstance(node, ast.Name) and node.id in called[name])

    names: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and is_called(node.value, "environ") and isinstance(node.ctx, ast.Load):
            names.append(node.slice)
        elif isinstance(node, ast.Call):
            of_environ = isinstance(node.func, ast.Attribute) and is_called(node.func.value, "environ")
            if of_environ or is_called(node.func, "getenv"):
                names += [*node.args[:1], *(one.value for one in node.keywords if one.arg == "key")]
        elif isinstance(node, ast.Compare) and any(is_called(one, "environ") for one in node.comparators):
            names.append(node.left)
    return {one.value for one in names if isinstance(one, ast.Constant) and isinstance(one.value, str)}


def _orders(value: Any, where: str = "") -> Iterator[list[str]]:
    """The orders of the mappings that a factory or a source of data is given: it may go through them. Not that of its
    own arguments, which it is given by name, sorted."""
    if isinstance(value, Mapping):
        if where and len(value) > 1:
            yield [where, *map(str, value)]
        for key, inner in value.items():
            yield from _orders(inner, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _orders(inner, f"{where}.{index}")


def _site() -> dict[str, Any]:
    """Versions of the installed distributions, which of them provide a top-level module, and qntz's plugins."""
    versions: dict[str, str] = {}
    top_level: dict[str, list[str]] = {}
    found: list[list[str]] = []
    seen: set[str] = set()
    # editable ones first: the egg-info that stands beside their source is no installation
    found_all = [(_editable(distribution), distribution) for distribution in importlib.metadata.distributions()]
    for editable, distribution in sorted(found_all, key=lambda pair: not pair[0]):
        metadata = distribution.metadata  # each access parses it
        name = re.sub(r"[-_.]+", "-", metadata["Name"] or "").lower()
        if not name or name in seen:
            continue  # the first on sys.path counts
        seen.add(name)
        found += [[e.name, e.module] for e in distribution.entry_points if e.group == plugins.ENTRY_POINTS]
        if editable:
            continue  # followed as source
        versions[name] = _BUILT_FOR.sub("", metadata["Version"]) + _own_build(distribution)
        for top in _top_level(distribution):
            top_level.setdefault(top, []).append(name)
    return {"versions": versions, "top_level": {t: sorted(n) for t, n in top_level.items()}, "plugins": sorted(found)}


def _editable(distribution: importlib.metadata.Distribution) -> bool:
    direct = distribution.read_text("direct_url.json")
    return bool(direct) and bool(json.loads(direct).get("dir_info", {}).get("editable"))


def _own_build(distribution: importlib.metadata.Distribution) -> str:
    """For a distribution that came from no index (a folder, a URL, a repository) a digest of its files beside the
    version, which may stay while they change."""
    if not distribution.read_text("direct_url.json"):
        return ""
    lines = (distribution.read_text("RECORD") or "").splitlines()
    # neither scripts, which name this machine's interpreter, nor the record of the installation itself
    own = [line for line in lines if not line.startswith("..") and not re.search(r"\.dist-info/|__pycache__/", line)]
    return f" {digest(sorted(own))[:16]}"


def _top_level(distribution: importlib.metadata.Distribution) -> set[str]:
    record = distribution.read_text("RECORD") or ""
    tops = {line.partition(",")[0].partition("/")[0] for line in record.splitlines()}
    tops = {t for t in tops if t and not t.endswith((".dist-info", ".data", ".libs", "__pycache__", ".pth", ".."))}
    named = (distribution.read_text("top_level.txt") or "").split()
    return {re.sub(r"\.(cpython|abi3).*$|\.(py|so|pyd)$", "", top) for top in tops} | set(named)
