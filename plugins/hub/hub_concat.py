"""`data.concat`: one set of problems from several, each statement once, without those of a test set."""

from __future__ import annotations

import random
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any, Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "sdk"))

import volvelle_sdk  # noqa: E402  (beside this plugin, not installed)
from volvelle_sdk import Failure, Job  # noqa: E402


def letters(statement: str) -> str:
    """Returns what two statements that differ in typesetting alone have in common.

    Signs of operations stay, as a statement may be nothing but numbers and signs; and so does the point in 3.5.
    """
    plain = re.sub(r"[$\\{}]", "", unicodedata.normalize("NFKC", statement).casefold())
    return re.sub(r"[.,;:](?=\s|$)|\s", "", plain)


def read_problems(path: Path) -> List[Dict[str, Any]]:
    """Returns the problems of a file."""
    problems = list(volvelle_sdk.read_jsonl(path))
    for number, problem in enumerate(problems, 1):
        if not isinstance(problem, dict) or not all(isinstance(problem.get(key), str) for key in ("id", "problem")):
            raise Failure(f"{path}: value {number} is no problem: it has no text `id` and `problem`")
    return problems


def run(job: Job) -> None:
    """Runs the kind."""
    against = {letters(problem["problem"]) for item in job.inputs("against") for problem in read_problems(item.path)}
    merged: List[Dict[str, Any]] = []
    sources = []
    statements, identifiers = set(), set()
    for number, item in enumerate(job.inputs("problems"), 1):
        counts = {"problems": 0, "repeated": 0, "in_test_set": 0, "taken": 0}
        name = item.label or ",".join(f"{axis}={value}" for axis, value in item.axes.items()) or str(number)
        for problem in read_problems(item.path):
            counts["problems"] += 1
            statement = letters(problem["problem"])
            if statement in against:
                counts["in_test_set"] += 1
                continue
            if statement in statements:
                counts["repeated"] += 1
                continue
            if problem["id"] in identifiers:
                raise Failure(f"{item.path}: the id {problem['id']!r} is there twice, for different problems")
            statements.add(statement)
            identifiers.add(problem["id"])
            merged.append({**problem, "_source": len(sources)})
        sources.append({"name": name, **counts})
    if job.params["shuffle"]:
        random.Random(job.params["seed"]).shuffle(merged)
    merged = merged[: job.params["num_problems"]]
    if not merged:
        raise Failure("no problem is left")
    for problem in merged:
        sources[problem.pop("_source")]["taken"] += 1
    volvelle_sdk.write_jsonl(job.output("problems"), merged)
    card = {"version": 1, "num_problems": len(merged), "sources": sources}
    volvelle_sdk.write_json(job.output("card"), card)
    job.metric("problems", len(merged))
