"""`trl.sft` and `trl.grpo`: the engine's side. Checks and converts what goes in, starts the trainer, and says how it ended.

The trainer (`trl_train.py`) is a program of its own, so that a launcher such as `accelerate launch` can start it once for
each GPU, and so that mistakes in the data are told before it starts. This side needs Python's standard library alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "sdk"))

import trl_data  # noqa: E402
import trl_reward  # noqa: E402
import volvelle_sdk  # noqa: E402  (beside this plugin, not installed)
from volvelle_sdk import Failure, Job  # noqa: E402

# Attempts that may fail in a row where they continue from one checkpoint; the next starts over.
MOST_FAILURES = 2


def whole_checkpoint(partial: Path) -> Optional[Path]:
    """Returns the note on the newest checkpoint that was written to its end; the folder of a checkpoint is named in it.

    TRL writes a checkpoint in place, so that one alone may be half; a note is made when it is whole.
    """
    notes = []
    for path in (partial / "whole").glob("*.json"):
        try:
            note = volvelle_sdk.read_json(path)
            if (partial / "trainer" / note["checkpoint"]).is_dir():
                notes.append((int(note["step"]), path))
        except (OSError, ValueError, KeyError, TypeError):  # damaged, or of another version: as if it were not there
            continue
    return max(notes)[1] if notes else None


def checkpoint_to_continue(job: Job) -> Optional[Path]:
    """Returns the note on the checkpoint from which to continue, and counts the attempts that do."""
    note = whole_checkpoint(job.partial)
    counter = job.partial / "attempts.json"
    name = note.name if note else None
    try:
        counted: Dict[str, Any] = volvelle_sdk.read_json(counter)
    except (OSError, ValueError):
        counted = {}
    attempts = counted.get("attempts", 0) if counted.get("from") == name else 0
    if note is not None and attempts >= MOST_FAILURES:
        job.warning(f"{attempts} attempts that continued from {note.stem} failed; this one starts over")
        for folder in ("trainer", "whole", "kept"):
            shutil.rmtree(job.partial / folder, ignore_errors=True)
        note, name, attempts = None, None, 0
    job.partial.mkdir(parents=True, exist_ok=True)
    volvelle_sdk.write_json(counter, {"from": name, "attempts": attempts + 1})
    return note


def forget_attempt(job: Job) -> None:
    """Uncounts this attempt: being stopped is no failure."""
    counter = job.partial / "attempts.json"
    counted = volvelle_sdk.read_json(counter)
    volvelle_sdk.write_json(counter, {**counted, "attempts": max(0, counted["attempts"] - 1)})


def start(job: Job, rows: List[trl_data.Row], verifier: Optional[Path]) -> int:
    """Starts the trainer on the rows and returns its exit code; on SIGTERM it has a moment to save."""
    # The working directory is this attempt's own, and as much shared between machines as the cache is.
    scratch = Path.cwd()
    volvelle_sdk.write_jsonl(scratch / "rows.jsonl", rows)
    note = checkpoint_to_continue(job)
    task = {
        "request": str(Path(sys.argv[-1]).resolve()),
        "rows": str(scratch / "rows.jsonl"),
        "verifier": str(verifier) if verifier else None,
        "continue": str(note) if note else None,
        "reported": str(scratch / "reported"),
    }
    volvelle_sdk.write_json(scratch / "task.json", task)
    launcher = job.params["launcher"] or [sys.executable]
    if shutil.which(launcher[0]) is None:
        raise Failure(f"the launcher `{launcher[0]}` is not on PATH", hint="pip install accelerate, or name another `launcher`")
    environment = {
        # Everything that is trained on is here; a look at the hub would only make a run depend on the network.
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(job.cpu),
        **os.environ,
    }
    # The engine's SIGTERM goes to the whole process group: the trainer gets its own, and this side waits for it.
    signal.signal(signal.SIGTERM, lambda *_: forget_attempt(job))
    command = [*launcher, str(HERE / "trl_train.py"), str(scratch / "task.json")]
    job.info(f"starts {' '.join(launcher)} trl_train.py with {len(rows)} rows")
    return subprocess.run(command, env=environment).returncode


def train(job: Job) -> None:
    """Runs either kind."""
    model = job.input("model").path
    if (model / "endpoint.json").exists():
        raise Failure("a served model (lm.endpoint) can't be trained", hint="give the folder of its weights, by lm.load")
    verifier = None
    if job.kind == "trl.grpo":
        rows = trl_data.grpo_rows(job.input("problems").path)
        verifier = trl_reward.find_verifier()
        if trl_reward.judge(verifier, [("1/2", "So it is \\boxed{0.5}.")]) != [True]:
            raise Failure(f"{verifier} does not judge answers as it should", hint="build it again")
    else:
        completion_only = job.params["config"].get("completion_only_loss") is True
        rows = trl_data.sft_rows(job.input("data").path, completion_only)
    code = start(job, rows, verifier)
    if code == 0:
        return
    if Path("reported").exists():  # the trainer has said why, and the last word counts
        raise SystemExit(1)
    raise Failure(f"the trainer ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}; its words are in the log")


if __name__ == "__main__":
    volvelle_sdk.main({"trl.sft": train, "trl.grpo": train})
