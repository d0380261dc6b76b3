"""The reward of GRPO: what `volvelle-torch verify` says of each answer. Needs no TRL; TRL calls it.

The verifier is the one that search and eval use, so that all three mean the same by "correct".
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Collection, List, Mapping, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "sdk"))

from volvelle_sdk import Failure  # noqa: E402  (beside this plugin, not installed)

PROGRAM = "volvelle-torch"

# A return sentence, at most one a paragraph, as the plugin in Rust counts them by default.
BACKTRACK = re.compile(r"let['’]s go back to|let['’]s restart", re.IGNORECASE)

# Beyond this, a batch of answers is not being judged but stuck.
TIMEOUT_SECONDS = 600


def find_verifier(engine: Optional[Path] = None) -> Path:
    """Returns the program: beside the engine that started this plugin, else on PATH."""
    if engine is None:
        try:
            engine = Path(os.readlink(f"/proc/{os.getppid()}/exe"))
        except OSError:  # no /proc, or no right to look
            engine = None
    beside = engine.parent / PROGRAM if engine is not None else None
    if beside is not None and os.access(beside, os.X_OK):
        return beside
    found = shutil.which(PROGRAM)
    if found is None:
        raise Failure(
            f"{PROGRAM}, which judges the answers, is neither beside volvelle nor on PATH",
            hint="build it (`cargo build --release`), or put its folder on PATH",
        )
    return Path(found)


def judge(program: Path, pairs: Sequence[Tuple[str, str]]) -> List[bool]:
    """Returns for each reference answer and completion whether they agree."""
    if not pairs:
        return []
    lines = "".join(json.dumps({"gold": gold, "pred": pred}) + "\n" for gold, pred in pairs)
    command = [str(program), "verify", "--input", "-"]
    try:
        result = subprocess.run(command, input=lines, capture_output=True, text=True, encoding="utf-8", timeout=TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"{program} can't judge the answers: {error}") from error
    if result.returncode != 0:
        raise Failure(f"{program} can't judge the answers: {result.stderr.strip()[-500:]}")
    verdicts = [json.loads(line)["equal"] for line in result.stdout.splitlines()]
    if len(verdicts) != len(pairs):
        raise Failure(f"{program} gave {len(verdicts)} verdicts on {len(pairs)} answers")
    return verdicts


def count_backtracks(text: str) -> int:
    """Returns the number of paragraphs with a return sentence, up to the last boxed answer."""
    before_answer = text[: text.rfind("\\boxed")] if "\\boxed" in text else text
    return sum(BACKTRACK.search(paragraph) is not None for paragraph in re.split(r"\n\s*\n", before_answer))


def reward_function(
    program: Path, rewards: Mapping[str, float], max_length: Optional[int], end_tokens: Callable[[], Collection[int]]
) -> Callable[..., List[float]]:
    """Returns the function that TRL calls with each batch of rollouts.

    `max_length` and `end_tokens` tell a rollout that the length ended: it is wrong, whatever its last words are.
    """

    def verified(completions: Any, completion_ids: Any, answer: Any, **others: Any) -> List[float]:
        texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
        ends = end_tokens()
        truncated = [max_length is not None and len(ids) >= max_length and ids[-1] not in ends for ids in completion_ids]
        equal = judge(program, list(zip(answer, texts)))
        correct = [same and not cut for same, cut in zip(equal, truncated)]
        log_metric = others.get("log_metric")
        if log_metric is not None and texts:
            log_metric("pass_rate", sum(correct) / len(correct))
            log_metric("backtracks", sum(map(count_backtracks, texts)) / len(texts))
        return [rewards["correct" if right else "wrong"] for right in correct]

    return verified
