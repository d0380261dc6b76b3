"""From the pipeline's files to the rows that TRL trains on, and from TRL's logs to metrics. Knows no TRL, only data."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "sdk"))

from volvelle_sdk import Failure, read_jsonl  # noqa: E402  (beside this plugin, not installed)

Row = Dict[str, Any]

# TRL's names of what `astro.grpo` reports too -> its names there, so that one curve shows both.
RENAMED = {
    "completions/mean_length": "completion_length",
    "completions/clipped_ratio": "truncated",
    "frac_reward_zero_std": "zero_variance_groups",
    "clip_ratio/low_mean": "clip_low",
    "clip_ratio/high_mean": "clip_high",
}

# Logged values that say how fast the machine was, or count from where an attempt began: metrics are an output, and the
# same work must give the same bytes, however often it was interrupted.
LEFT_OUT = ("_runtime", "_per_second", "step_time", "num_tokens")


def sft_rows(path: Path, completion_only: bool) -> List[Row]:
    """Returns chats as TRL's conversational rows: whole, or with the last message as the completion."""
    rows = []
    for number, chat in enumerate(read_jsonl(path), 1):
        messages = [_message(message, f"{path}: chat {number}") for message in _messages(chat, path, number)]
        if not completion_only:
            rows.append({"messages": messages})
            continue
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise Failure(
                f"{path}: chat {number} does not end with an answer of the assistant to a prompt, which "
                "completion_only_loss needs"
            )
        rows.append({"prompt": messages[:-1], "completion": messages[-1:]})
    if not rows:
        raise Failure(f"{path}: there are no chats to train on")
    return rows


def _messages(chat: Any, path: Path, number: int) -> List[Any]:
    messages = chat.get("messages") if isinstance(chat, dict) else None
    if not isinstance(messages, list) or not messages:
        raise Failure(f"{path}: chat {number} has no `messages`")
    return messages


def _message(message: Any, place: str) -> Row:
    if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
        raise Failure(f"{place} has a message without `role` and `content`: {str(message)[:80]!r}")
    if message.get("masked"):
        raise Failure(
            f"{place} has parts that are not to be learned (`masked`), which TRL's trainer can't leave out",
            hint="train on these chats with astro.sft",
        )
    return {"role": message["role"], "content": message["content"]}


def grpo_rows(path: Path) -> List[Row]:
    """Returns problems as TRL's prompts; `answer` and `problem_id` reach the reward function beside them."""
    rows = []
    for number, problem in enumerate(read_jsonl(path), 1):
        place = f"{path}: problem {number}"
        if not isinstance(problem, dict):
            raise Failure(f"{place} is no problem, but {type(problem).__name__}")
        for key in ("id", "problem", "answer"):
            if not isinstance(problem.get(key), str):
                raise Failure(f"{place} has no text `{key}`")
        verifier = problem.get("verifier", "math")
        if verifier != "math":
            raise Failure(
                f"{place} is judged by the verifier {verifier!r}, but trl.grpo knows `math` alone",
                hint="train on these problems with astro.grpo",
            )
        prompt = [{"role": "user", "content": problem["problem"]}]
        rows.append({"prompt": prompt, "answer": problem["answer"], "problem_id": problem["id"]})
    if not rows:
        raise Failure(f"{path}: there are no problems to train on")
    return rows


def metric_values(logs: Mapping[str, Any]) -> Dict[str, float]:
    """Returns the numbers of one entry of TRL's log, under the names that our own trainers use."""
    values = {}
    for name, value in logs.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name == "step" or not is_number or not math.isfinite(value) or any(word in name for word in LEFT_OUT):
            continue
        values[RENAMED.get(name, name)] = float(value)
    return values


def metric_lines(history: Iterable[Mapping[str, Any]]) -> List[Row]:
    """Returns the lines of `metrics`: one for each step that was logged, without the summary at the end of training."""
    lines: Dict[int, Row] = {}
    for logs in history:
        if "train_runtime" in logs or not isinstance(logs.get("step"), int):
            continue
        lines.setdefault(logs["step"], {}).update(metric_values(logs))
    # In the order of their names: a log that was read back from a checkpoint has its own.
    return [{"step": step, **dict(sorted(lines[step].items()))} for step in sorted(lines)]
