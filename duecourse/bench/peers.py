"""Installs what we are compared with, into `.duecourse/bench/` and nowhere else: Redis from Debian, BullMQ and pg-boss
from npm, Celery and Procrastinate from PyPI.

What cannot be installed is reported by name and with the reason; it never stops the other measurements.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from duecourse.local.state import REPOSITORY, Home, default_home

NPM_PACKAGES = {"bullmq": "6.7.0", "ioredis": "5.11.1", "pg-boss": "10.4.2"}
"""pg-boss 10 is the last line that runs on Node 20, Debian's and the CI's; 12 wants Node 22."""
PYTHON_PACKAGES = {"celery[redis]": "5.7.0", "procrastinate": "3.10.0", "psycopg[binary,pool]": "3.3.9"}
DEBIAN_PACKAGES = ("redis-tools", "libjemalloc2", "liblua5.1-0", "liblzf1", "libatomic1", "libhiredis0.14")
"""redis-tools holds the server's program; the others are its libraries, where the machine lacks them."""
INSTALL_SECONDS = 300
LAST_LINES = 3
RIVALS = Path(__file__).with_name("rivals")


class PeerMissing(Exception):
    """A peer could not be installed; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Peers:
    """Where the peers are, the versions that were found, and those that are missing with their reasons."""

    directory: Path
    redis_server: Path | None
    node_modules: Path | None
    python: Path | None
    versions: dict[str, str]
    missing: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """What the programs of the peers need to find their libraries."""
        libraries = self.directory / "redis/usr/lib"
        found = ":".join(str(path) for path in sorted(libraries.glob("*-linux-gnu"))) if libraries.exists() else ""
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return keep | ({"LD_LIBRARY_PATH": found} if found else {})

    def node(self, script: str) -> list[str]:
        """The command that runs one of our Node scripts. Raises `PeerMissing`."""
        if self.node_modules is None:
            raise PeerMissing(self.missing.get("node", "node packages are not installed"))
        copy = self.node_modules.parent / script  # a module is looked up from where its importer lies
        copy.write_bytes((RIVALS / script).read_bytes())
        return ["node", str(copy)]

    def python_program(self, script: str) -> list[str]:
        """The command that runs one of our Python scripts beside the peers' packages. Raises `PeerMissing`."""
        if self.python is None:
            raise PeerMissing(self.missing.get("python", "the peers' Python packages are not installed"))
        return [str(self.python), "-P", str(RIVALS / script)]


def install(home: Home | None = None) -> Peers:
    """Install whatever is not there yet. Takes about 20 seconds the first time, none later."""
    directory = (home or default_home()).directory / "bench"
    directory.mkdir(parents=True, exist_ok=True)
    missing: dict[str, str] = {}
    redis = _tried("redis", lambda: _redis(directory / "redis"), missing)
    modules = _tried("node", lambda: _node_modules(directory / "node"), missing)
    python = _tried("python", lambda: _python(directory / "python"), missing)
    versions = _versions(redis, modules, python, directory)
    return Peers(directory, redis, modules, python, versions, missing)


def _tried(name: str, make: Callable[[], Path], missing: dict[str, str]) -> Path | None:
    try:
        return make()
    except (OSError, subprocess.SubprocessError, PeerMissing) as error:
        missing[name] = str(error)
        return None


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-LAST_LINES:])
        raise PeerMissing(f"`{' '.join(map(str, command[:3]))} …` failed: {said}")
    return done.stdout


def _once(directory: Path, wanted: str, make: Callable[[Path], None]) -> Path:
    """Fill the directory, unless it was filled with just this before. What an interrupted attempt left is removed."""
    note = directory / "installed"
    if not note.exists() or note.read_text() != wanted:
        shutil.rmtree(directory, ignore_errors=not directory.exists())
        directory.mkdir(parents=True)
        make(directory)
        note.write_text(wanted)
    return directory


def _redis(directory: Path) -> Path:
    """The machine's redis-server, or Debian's, unpacked without being installed: that needs no root."""
    if found := shutil.which("redis-server"):
        return Path(found)
    return _once(directory, "\n".join(DEBIAN_PACKAGES), _unpack_redis) / "redis-server"


def _unpack_redis(directory: Path) -> None:
    try:
        _run("apt-get", "download", *DEBIAN_PACKAGES, cwd=directory)
    except PeerMissing:  # a machine that never asked has no package lists
        _run("apt-get", "update")
        _run("apt-get", "download", *DEBIAN_PACKAGES, cwd=directory)
    for package in directory.glob("*.deb"):
        _run("dpkg-deb", "--extract", package, directory)
    # One program under several names; the link redis-server is in a package of its own.
    (directory / "redis-server").symlink_to(directory / "usr/bin/redis-check-rdb")


def _node_modules(directory: Path) -> Path:
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise PeerMissing("BullMQ and pg-boss need node and npm, and neither or only one is on PATH")
    return _once(directory, json.dumps(NPM_PACKAGES), _install_node_modules) / "node_modules"


def _install_node_modules(directory: Path) -> None:
    manifest = {"private": True, "type": "module", "dependencies": NPM_PACKAGES}
    (directory / "package.json").write_text(json.dumps(manifest))
    _run("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", cwd=directory)


def _python(directory: Path) -> Path:
    return _once(directory, json.dumps(PYTHON_PACKAGES), _install_python) / "bin/python"


def _install_python(directory: Path) -> None:
    uv = _uv()
    _run(uv, "venv", "--quiet", "--clear", directory)
    wanted = [f"{name}=={version}" for name, version in PYTHON_PACKAGES.items()]
    _run(uv, "pip", "install", "--quiet", "--python", directory / "bin/python", *wanted)


def _uv() -> str:
    own = REPOSITORY / ".duecourse/uv/bin/uv"
    found = os.environ.get("UV") or shutil.which("uv") or (str(own) if own.exists() else None)
    if found is None:
        raise PeerMissing("Celery and Procrastinate need uv, which is not on PATH: run `make bench`")
    return found


def _versions(redis: Path | None, modules: Path | None, python: Path | None, directory: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    if redis is not None:
        environment = Peers(directory, redis, None, None, {}).environment()
        said = subprocess.run([redis, "--version"], env=environment, capture_output=True, text=True, check=False).stdout
        found["redis"] = next((word.removeprefix("v=") for word in said.split() if word.startswith("v=")), "unknown")
    if modules is not None:
        found["node"] = _run("node", "--version").strip().removeprefix("v")
        found |= {name: json.loads((modules / name / "package.json").read_text())["version"] for name in NPM_PACKAGES}
    if python is not None:
        found |= {name.partition("[")[0]: version for name, version in PYTHON_PACKAGES.items()}
    return found
