"""`vllm.generate`: samples of a model folder by vLLM's offline engine.

Generates and does not judge: `eval.samples` does, by the verifier that search and training use. vLLM is imported when a
stage runs. Problems that an interrupted attempt finished are not sampled again.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "sdk"))

import volvelle_sdk  # noqa: E402  (beside this plugin, not installed)
from volvelle_sdk import Failure, Job  # noqa: E402

Line = Dict[str, Any]
# Problems -> for each its samples: text, number of tokens, whether the length ended it.
Generate = Callable[[List[Line]], List[List[Tuple[str, int, bool]]]]

# Settings of vllm.LLM that are parameters or inputs of the stage.
TAKEN = ("model", "tokenizer", "seed", "dtype")

# What `runtime` takes, which is in no key: how the work is divided, and what it may use.
RUNTIME = (
    "tensor_parallel_size", "pipeline_parallel_size", "distributed_executor_backend", "disable_custom_all_reduce",
    "gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill", "enable_prefix_caching",
    "enforce_eager", "cpu_offload_gb", "swap_space", "disable_log_stats",
)


def engine_settings(params: Mapping[str, Any]) -> Dict[str, Any]:
    """Returns what vllm.LLM is given besides the model: settings in the key, and those that need not be."""
    engine, runtime = params["engine"], params["runtime"]
    for name in runtime:
        if name not in RUNTIME:
            raise Failure(
                f"`runtime.{name}` can't be set: it may change the samples, and `runtime` is in no key",
                hint=f"say it in `engine`; `runtime` takes {', '.join(RUNTIME)}",
            )
    for name in engine:
        if name in TAKEN:
            raise Failure(f"`engine.{name}` can't be set: the stage's own parameters and inputs say it")
        if name in runtime:
            raise Failure(f"`{name}` is set in `engine` and in `runtime`", hint="say it once")
    return {**engine, **runtime, "seed": params["seed"], "dtype": params["dtype"]}


def samples_each(job: Job) -> int:
    """Returns how many samples a problem gets: vLLM refuses to draw several that can only be the same."""
    count = job.params["num_samples"]
    if job.params["temperature"] > 0 or count == 1:
        return count
    job.warning(f"at temperature 0 all samples of a problem are the same: one is drawn instead of {count}")
    return 1


def vllm_engine(job: Job) -> Generate:
    """Starts vLLM on the model, and returns what samples with it."""
    # The model is a folder of this run; nothing is to be looked up, and nobody is told what is sampled.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        from vllm import LLM, SamplingParams
    except ImportError as error:
        raise Failure(
            f"vllm.generate needs the library `vllm` for {sys.executable}: {error}",
            hint="pip install vllm; a model that one GPU holds is sampled by `eval` without it",
        ) from error
    params = job.params
    settings, count = engine_settings(params), samples_each(job)
    try:
        engine = LLM(model=str(job.input("model").path), **settings)
    except TypeError as error:
        raise Failure(f"vLLM refuses the settings in `engine` and `runtime`: {error}") from error

    def generate(problems: List[Line]) -> List[List[Tuple[str, int, bool]]]:
        chats = [[{"role": "user", "content": problem["problem"]}] for problem in problems]
        sampling = [
            SamplingParams(
                n=count, temperature=params["temperature"], top_p=params["top_p"],
                max_tokens=params["max_completion_length"], seed=problem_seed(params["seed"], problem["id"]),
            )
            for problem in problems
        ]
        outputs = engine.chat(chats, sampling, use_tqdm=False)
        return [[(one.text, len(one.token_ids), one.finish_reason == "length") for one in out.outputs] for out in outputs]

    return generate


def problem_seed(seed: int, identifier: str) -> int:
    """Returns the seed of a problem's samples: its own, whatever other problems there are (FNV-1a, 63 bits)."""
    digest = 0xCBF29CE484222325
    for byte in f"{seed}:{identifier}".encode():
        digest = ((digest ^ byte) * 0x100000001B3) % 2**64
    return digest % 2**63


def finished(path: Path) -> Dict[str, List[Line]]:
    """Returns the samples of problems that an earlier attempt finished, by id; a torn last line does not count."""
    done: Dict[str, List[Line]] = {}
    if not path.exists():
        return done
    whole = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                entry = json.loads(line)
                done[entry["id"]] = entry["samples"]
            except (ValueError, KeyError, TypeError):
                break
            whole += len(line)
    os.truncate(path, whole)
    return done


def sample_lines(problem: Line, generated: List[Tuple[str, int, bool]]) -> List[Line]:
    """Returns the samples of a problem, not judged yet."""
    return [
        {
            "version": 1, "problem_id": problem["id"], "sample_idx": idx, "prompt": problem["problem"], "completion": text,
            "num_tokens": num_tokens, "answer": None, "correct": False, "truncated": truncated, "num_backtracks": 0,
            "failure": "not_judged",
        }
        for idx, (text, num_tokens, truncated) in enumerate(generated)
    ]


def run(job: Job, start: Callable[[Job], Generate] = vllm_engine) -> None:
    """Runs the kind; vLLM is started if there is anything left to sample."""
    if (job.input("model").path / "endpoint.json").exists():
        raise Failure("a served model (lm.endpoint) is sampled by `eval`", hint="give the folder of its weights")
    problems = list(volvelle_sdk.read_jsonl(job.input("problems").path))
    for number, problem in enumerate(problems, 1):
        if not isinstance(problem, dict) or not all(isinstance(problem.get(key), str) for key in ("id", "problem")):
            raise Failure(f"{job.input('problems').path}: value {number} is no problem: it has no text `id` and `problem`")
    if job.params["num_problems"]:
        problems = problems[: job.params["num_problems"]]
    if not problems:
        raise Failure("there are no problems to sample")
    job.partial.mkdir(parents=True, exist_ok=True)
    journal = job.partial / "samples.jsonl"
    done = finished(journal)
    left = [problem for problem in problems if problem["id"] not in done]
    job.progress(len(problems) - len(left), len(problems), "problem")
    generate = start(job) if left else None
    at_once = job.params["problems_at_once"]
    for first in range(0, len(left), at_once):
        batch = left[first : first + at_once]
        assert generate is not None
        generated = generate(batch)
        with open(journal, "a", encoding="utf-8") as file:
            for problem, samples in zip(batch, generated):
                done[problem["id"]] = sample_lines(problem, samples)
                file.write(json.dumps({"id": problem["id"], "samples": done[problem["id"]]}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        job.progress(len(problems) - len(left) + first + len(batch), len(problems), "problem")
    lines = [line for problem in problems for line in done[problem["id"]]]
    volvelle_sdk.write_jsonl(job.output("samples"), lines)
    job.metric("truncated", sum(line["truncated"] for line in lines) / len(lines))
    job.metric("mean_tokens", sum(line["num_tokens"] for line in lines) / len(lines))


if __name__ == "__main__":  # vLLM's workers import this file again
    volvelle_sdk.main({"vllm.generate": run})
