"""`data.hub`: problems from a dataset on the Hugging Face hub.

Reads rows through the library `datasets`, which is imported when a stage runs; everything else here works on any rows.
What comes out equals what `data.jsonl` makes of the same rows in a file.
"""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "sdk"))

import hub_concat  # noqa: E402
import volvelle_sdk  # noqa: E402  (beside this plugin, not installed)
from volvelle_sdk import Failure, Job  # noqa: E402

Row = Mapping[str, Any]
Load = Callable[..., Any]

COMMIT = re.compile(r"[0-9a-f]{40}")
NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
OFFLINE = (
    "on a machine with the network run `hf download --repo-type dataset {repo} --revision {revision}`, take its HF_HOME "
    "along, and set HF_HUB_OFFLINE=1; a file at hand can be read by data.jsonl"
)


def loader() -> Load:
    """Returns `datasets.load_dataset`."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise Failure(
            f"data.hub needs the library `datasets` for {sys.executable}: {error}",
            hint="pip install datasets; without the network, write the problems to a file and read it with data.jsonl",
        ) from error
    return load_dataset


def configs(params: Mapping[str, Any]) -> List[Optional[str]]:
    """Returns the configurations to read."""
    config = params["config"]
    if isinstance(config, list):
        if not config or len(set(config)) != len(config):
            raise Failure(f"`config` must name configurations, each once, not {config}")
        return list(config)
    return [config]


def check(params: Mapping[str, Any]) -> None:
    """Refuses what would not name the same data for ever, and what can't work."""
    repo, revision = params["repo"], params["revision"]
    if not NAME.fullmatch(repo):
        raise Failure(f"`repo` {repo!r} is no name of a dataset on the hub", hint="a file on this machine is read by data.jsonl")
    if not COMMIT.fullmatch(revision):
        raise Failure(
            f"`revision` {revision!r} is no commit: all 40 hexadecimal digits are needed",
            hint=f"the newest one is the field `sha` of https://huggingface.co/api/datasets/{repo}",
        )
    if "{problem}" not in params["template"]:
        raise Failure(f"`template` {params['template']!r} has no {{problem}} in it")
    if params["boxed_answer"] and params["answer_pattern"] is not None:
        raise Failure("`boxed_answer` and `answer_pattern` both say where the answer is", hint="set one of them")
    if params["answer_pattern"] is not None:
        try:
            re.compile(params["answer_pattern"])
        except re.error as error:
            raise Failure(f"`answer_pattern` {params['answer_pattern']!r} is no regular expression: {error}") from error


def load(load_dataset: Load, params: Mapping[str, Any], config: Optional[str]) -> Any:
    """Returns the rows of one configuration."""
    repo, split, revision = params["repo"], params["split"], params["revision"]
    place = f"{repo}{f', configuration {config!r},' if config else ''} at {revision[:12]}"
    try:
        return load_dataset(repo, name=config, split=split, revision=revision)
    except Exception as error:  # the library raises a dozen kinds, of three packages
        reason = str(error).strip() or type(error).__name__
        raise Failure(
            f"{place}: {reason.splitlines()[0]}",
            hint=f"no network? {OFFLINE.format(repo=repo, revision=revision)}. A gated dataset needs HF_TOKEN",
        ) from error


def last_boxed(text: str) -> Optional[str]:
    r"""Returns what the last `\boxed{...}` holds, braces inside of it counted; None if there is none that closes."""
    start = text.rfind("\\boxed")
    while start >= 0:
        rest = text[start + len("\\boxed") :].lstrip()
        if rest.startswith("{"):
            depth = 0
            idx = 0
            while idx < len(rest):
                if rest[idx] == "\\":  # an escaped brace is no brace
                    idx += 2
                    continue
                depth += {"{": 1, "}": -1}.get(rest[idx], 0)
                if depth == 0:
                    return rest[1:idx].strip()
                idx += 1
        start = text.rfind("\\boxed", 0, start)
    return None


def text_of(row: Row, field: str) -> str:
    """Returns a column as text, a number as JSON writes it; empty where there is none."""
    if field not in row:
        raise Failure(f"there is no column {field!r}; there are {', '.join(sorted(row))}")
    value = row[field]
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Failure(f"column {field!r} is neither text nor a number: {str(value)[:60]!r}")
    return value.strip() if isinstance(value, str) else json.dumps(value)


def answer_of(row: Row, params: Mapping[str, Any]) -> str:
    """Returns the reference answer; empty where there is none."""
    text = text_of(row, params["answer_field"])
    if params["boxed_answer"]:
        return last_boxed(text) or ""
    if params["answer_pattern"] is not None:
        found = list(re.finditer(params["answer_pattern"], text))
        if not found:
            return ""
        return (found[-1].group(1 if found[-1].re.groups else 0) or "").strip()
    return text


def selects(row: Row, where: Mapping[str, Any]) -> Iterator[bool]:
    """Yields for each condition whether the row has the value, or one of the values."""
    for field, wanted in where.items():
        if field not in row:
            raise Failure(f"there is no column {field!r}; there are {', '.join(sorted(row))}")
        yield row[field] in (wanted if isinstance(wanted, list) else [wanted])


def problem_of(row: Row, identifier: str, params: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """Returns the problem of a row; None where it lacks one or its answer, and such rows are left out."""
    statement = text_of(row, params["problem_field"])
    answer = answer_of(row, params)
    if not statement or not answer:
        if params["skip_unanswered"]:
            return None
        lacks = f"no answer is found in column {params['answer_field']!r}" if statement else "the statement is empty"
        raise Failure(lacks, hint="set skip_unanswered to leave such rows out")
    meta = {field: row[field] for field in params["meta_fields"] if row.get(field) is not None}
    problem = {"version": 1, "id": identifier, "problem": params["template"].replace("{problem}", statement)}
    problem.update(answer=answer, verifier=params["verifier"])
    return {**problem, "meta": meta} if meta else problem


def chat_of(row: Row, problem: Mapping[str, Any], params: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """Returns the reference solution as a conversation, each line a paragraph of its own; None where there is none."""
    solution = text_of(row, params["solution_field"])
    lines = [line.strip() for line in solution.splitlines() if line.strip()]
    if not lines:
        return None
    separator = " ; " if params["verifier"] == "countdown" else "\n\n"
    text = params["solution_template"].replace("{solution}", separator.join(lines)).replace("{answer}", problem["answer"])
    messages = [{"role": "user", "content": problem["problem"]}, {"role": "assistant", "content": text}]
    return {"messages": messages, "problem_id": problem["id"], "num_backtracks": 0}


def read(load_dataset: Load, params: Mapping[str, Any], job: Job) -> Tuple[List[Dict[str, Any]], List[Dict[str, Any]]]:
    """Returns the problems, and the chats of those that have a solution."""
    check(params)
    taken: List[Tuple[Row, str]] = []
    num_rows = num_unanswered = 0
    for config in configs(params):
        name = "-".join(filter(None, [params["repo"].split("/")[-1], config, params["split"]]))
        for number, row in enumerate(load(load_dataset, params, config)):
            num_rows += 1
            try:
                if all(selects(row, params["where"])) and not any(selects(row, params["exclude"])):
                    identifier = text_of(row, params["id_field"]) if params["id_field"] else f"{name}-{number:06}"
                    taken.append((row, identifier))
            except Failure as failure:
                raise Failure(f"{name}, row {number}: {failure}", failure.hint) from failure
    if params["shuffle"]:
        random.Random(params["seed"]).shuffle(taken)
    problems: List[Dict[str, Any]] = []
    chats: List[Dict[str, Any]] = []
    seen = set()
    for row, identifier in taken:
        if params["count"] is not None and len(problems) == params["count"]:
            break
        try:
            problem = problem_of(row, identifier, params)
            if problem is None:
                num_unanswered += 1
                continue
            if identifier in seen:
                raise Failure("another row has the same id", hint="leave `id_field` out: rows are numbered then")
            seen.add(identifier)
            problems.append(problem)
            chat = chat_of(row, problem, params) if params["solution_field"] else None
        except Failure as failure:
            raise Failure(f"{params['repo']}, {identifier}: {failure}", failure.hint) from failure
        chats.extend([chat] if chat else [])
    if len(problems) < (params["count"] or 1):
        raise Failure(
            f"{params['repo']}: {len(problems)} problems are left of {num_rows} rows, but {params['count'] or 'some'} are "
            "asked for",
            hint="look at `where`, `exclude` and `count`",
        )
    job.info(f"{len(problems)} of {num_rows} rows; {num_unanswered} had no answer or no statement")
    return problems, chats


def run(job: Job) -> None:
    """Runs `data.hub`."""
    problems, chats = read(loader(), job.params, job)
    volvelle_sdk.write_jsonl(job.output("problems"), problems)
    volvelle_sdk.write_jsonl(job.output("chats"), chats)
    job.metric("problems", len(problems))


if __name__ == "__main__":
    volvelle_sdk.main({"data.hub": run, "data.concat": hub_concat.run})
