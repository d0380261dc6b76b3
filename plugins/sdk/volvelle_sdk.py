"""The worker's side of Volvelle's contract (plugins/CONTRACT.md) in one file, with Python's standard library only.

A plugin in Python is a function for each kind:

    import volvelle_sdk

    def count(job: volvelle_sdk.Job) -> None:
        problems = list(volvelle_sdk.read_jsonl(job.input("problems").path))
        volvelle_sdk.write_json(job.output("report"), {"count": len(problems)})

    if __name__ == "__main__":
        volvelle_sdk.main({"demo.count": count})

Python 3.9 or newer. This file is meant to be listed under `code:` in `plugin.yaml`, or copied.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Union

CONTRACT = 1

# Progress events closer together than this are dropped, but never the last one of a total.
PROGRESS_INTERVAL_SECONDS = 0.2


class Failure(Exception):
    """Raised by a kind to fail its node with a message meant for the user, and perhaps a hint on what to do."""

    def __init__(self, message: str, hint: Optional[str] = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Input:
    """An input artifact: where it is, at which point of the sweep it was made, and what the pipeline calls it."""

    path: Path
    axes: Mapping[str, Any] = field(default_factory=dict)
    label: Optional[str] = None

    def __fspath__(self) -> str:
        return str(self.path)


class Job:
    """One node's work: what is asked for, and the way to report on it."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        if request.get("contract") != CONTRACT:
            raise Failure(f"the engine speaks version {request.get('contract')} of the worker contract, not {CONTRACT}")
        self.kind: str = request["kind"]
        self.node: str = request["node"]
        self.key: str = request["key"]
        self.seed: int = request["seed"]
        self.params: Dict[str, Any] = request["params"]
        self.cpu: int = request["resources"]["cpu"]
        self.gpu: List[int] = list(request["resources"].get("gpu") or [])
        self.partial = Path(request["partial"])
        self._inputs: Mapping[str, Any] = request["inputs"]
        self._outputs: Mapping[str, str] = request["outputs"]
        self._events = Path(request["events"])
        self._last_progress = 0.0

    def input(self, name: str) -> Input:
        """Returns an input that is given once."""
        items = self.inputs(name)
        if len(items) != 1:
            raise Failure(f"input {name!r} is given {len(items)} times, but once is needed")
        return items[0]

    def input_opt(self, name: str) -> Optional[Input]:
        """Returns an input that may be absent."""
        return self.input(name) if name in self._inputs else None

    def inputs(self, name: str) -> List[Input]:
        """Returns the items of a gathered input in order; a single one is a list of one, an absent one is empty."""
        value = self._inputs.get(name)
        if value is None:
            return []
        items = value if isinstance(value, list) else [value]
        return [Input(Path(item["path"]), item.get("axes") or {}, item.get("label")) for item in items]

    def output(self, name: str) -> Path:
        """Returns the path at which an output must be created, as a file or a folder."""
        if name not in self._outputs:
            raise Failure(f"the request has no output {name!r}; it has {', '.join(sorted(self._outputs)) or 'none'}")
        return Path(self._outputs[name])

    def progress(self, done: int, total: int, unit: str = "item", message: str = "") -> None:
        """Reports that `done` of `total` units are done."""
        now = time.monotonic()
        if done < total and now - self._last_progress < PROGRESS_INTERVAL_SECONDS:
            return
        self._last_progress = now
        self._emit({"event": "progress", "done": done, "total": total, "unit": unit, "message": message})

    def metric(self, name: str, value: float, step: Optional[int] = None) -> None:
        """Reports one value of a metric; the last one is kept in the node's record."""
        self._emit({"event": "metric", "name": name, "value": value, "step": step})

    def info(self, message: str) -> None:
        """Writes a line to the run's log."""
        self._emit({"event": "log", "level": "info", "message": message})

    def warning(self, message: str) -> None:
        """Tells the user of something that may be wrong but doesn't stop the work."""
        self._emit({"event": "warning", "message": message})

    def error(self, message: str, hint: Optional[str] = None) -> None:
        """Says why the node is about to fail. Raising `Failure` does this and ends the work too."""
        event = {"event": "error", "message": message}
        self._emit({**event, "hint": hint} if hint else event)

    def _emit(self, event: Mapping[str, Any]) -> None:
        # NaN and infinity are not JSON; an event is news, so one that can't be written must not fail the work.
        try:
            line = json.dumps(event, ensure_ascii=False, allow_nan=False)
            with open(self._events, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except (OSError, ValueError) as error:
            print(f"event not written: {error}", file=sys.stderr)


def open_job(argv: Optional[List[str]] = None) -> Job:
    """Reads the request that the engine names as the last argument."""
    argv = sys.argv if argv is None else argv
    if len(argv) < 2:
        raise SystemExit(f"usage: {Path(argv[0]).name if argv else 'plugin'} REQUEST.json (started by volvelle)")
    return Job(read_json(argv[-1]))


def main(kinds: Mapping[str, Callable[[Job], None]], argv: Optional[List[str]] = None) -> None:
    """Runs the kind that the request names and exits: 0 when its function returns, 1 with an error event otherwise.

    The traceback of an exception that is not a `Failure` goes to the node's log.
    """
    try:
        job = open_job(argv)
    except Failure as failure:  # no job, so no events to write to: the log is all there is
        raise SystemExit(str(failure)) from None
    try:
        if job.kind not in kinds:
            raise Failure(f"this plugin has no kind {job.kind!r}; it has {', '.join(sorted(kinds))}")
        kinds[job.kind](job)
    except Failure as failure:
        job.error(str(failure), failure.hint)
        raise SystemExit(1) from None
    except Exception as error:  # the boundary: whatever went wrong must reach the user as a message
        traceback.print_exc()
        job.error(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from None
    raise SystemExit(0)


PathLike = Union[str, "os.PathLike[str]"]


def read_json(path: PathLike) -> Any:
    """Reads one JSON file."""
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write_json(path: PathLike, value: Any) -> None:
    """Writes one JSON file, indented, with a line break at its end."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        json.dump(value, file, ensure_ascii=False, allow_nan=False, indent=2)
        file.write("\n")


def read_jsonl(path: PathLike) -> Iterator[Any]:
    """Yields the values of a JSON Lines file; a line that is not JSON is a `Failure` that names it."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except ValueError as error:
                raise Failure(f"{path}:{number}: not JSON: {error}") from error


def write_jsonl(path: PathLike, values: Iterable[Any]) -> None:
    """Writes a JSON Lines file."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
