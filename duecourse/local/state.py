"""What the command line remembers between two calls: the directory `.duecourse/` and one small JSON file in it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from duecourse.local.errors import LocalError
from duecourse.local.processes import ProcessRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Home:
    """The directory that holds all local state; deleting it while nothing runs is always safe."""

    directory: Path

    @property
    def postgres(self) -> Path:
        return self.directory / "postgres"

    @property
    def emulator_log(self) -> Path:
        return self.directory / "emulator.log"

    @property
    def temporary(self) -> Path:
        """The emulator's TMPDIR: the unpacked code of every function process lies below it."""
        return self.directory / "tmp"

    @property
    def state_file(self) -> Path:
        return self.directory / "state.json"

    @property
    def api_token(self) -> Path:
        return self.directory / "api-token"

    @property
    def demo_result(self) -> Path:
        return self.directory / "demo.json"

    def clear(self) -> None:
        """Remove all of this, and nothing else: the Makefile keeps its uv in the same directory."""
        for path in (self.postgres, self.temporary):
            shutil.rmtree(path, ignore_errors=not path.exists())
        for path in (self.emulator_log, self.state_file, self.demo_result, self.api_token):
            path.unlink(missing_ok=True)


def default_home(environ: Mapping[str, str] = os.environ) -> Home:
    """`DUECOURSE_HOME`, or `.duecourse/` at the root of the repository."""
    return Home(Path(environ.get("DUECOURSE_HOME") or REPOSITORY / ".duecourse").expanduser().resolve())


@dataclass(frozen=True, slots=True)
class EmulatorRecord:
    """The emulator that `up` started last, alive or not: the next one prefers its port."""

    process: ProcessRecord
    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def load_emulator(home: Home) -> EmulatorRecord | None:
    """What the state file says. A file that cannot be read as ours counts as none: `up` then starts afresh."""
    try:
        found = json.loads(home.state_file.read_text())["emulator"]
        return EmulatorRecord(ProcessRecord(**found["process"]), int(found["port"]))
    except PermissionError:
        raise LocalError(
            f"{home.state_file} belongs to another user: run as that user, or put the state elsewhere"
            " with DUECOURSE_HOME"
        ) from None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def save_emulator(home: Home, record: EmulatorRecord) -> None:
    """Replace the state file at once: a reader sees the old or the new one, never half of it."""
    home.directory.mkdir(parents=True, exist_ok=True)
    draft = home.state_file.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps({"emulator": asdict(record)}, indent=2))
    draft.replace(home.state_file)


@contextmanager
def exclusive(home: Home) -> Iterator[None]:
    """Only one `up` or `down` at a time for a home. The lock ends with the process, however it ends."""
    try:
        home.directory.mkdir(parents=True, exist_ok=True)
        handle = (home.directory / "lock").open("w")
    except OSError as error:
        raise LocalError(
            f"{home.directory} cannot be written ({error.strerror}): check its owner and the disk"
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalError(
                f"another `duecourse up` or `duecourse down` is at work in {home.directory}: wait for it to end"
            ) from None
        yield
