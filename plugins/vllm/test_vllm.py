"""Tests of `vllm.generate` with a module in vLLM's place that has the parts of its interface that are called."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any, Dict, List

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import vllm_generate  # noqa: E402
import volvelle_sdk  # noqa: E402  (found through the former)

# Answers with the question, the seed and how it was asked; dies at the problem "bad".
MODULE = """
import os
from types import SimpleNamespace as Space

class SamplingParams:
    def __init__(self, n, temperature, top_p, max_tokens, seed):
        if temperature == 0 and n > 1:
            raise ValueError("n must be 1 when using greedy sampling")
        self.__dict__.update(locals())

class LLM:
    def __init__(self, model, seed, dtype, tensor_parallel_size=1):
        print("engine", os.path.basename(model), seed, dtype, tensor_parallel_size)

    def chat(self, chats, sampling, use_tqdm):
        print("chat", len(chats))
        outputs = []
        for chat, one in zip(chats, sampling):
            text = chat[0]["content"]
            if text == "bad" and not os.path.exists("/proc/self/cwd/../well"):
                os._exit(9)
            samples = [Space(text=f"{text} {idx} {one.temperature}", token_ids=[1] * (idx + 1), finish_reason=("stop", "length")[idx % 2]) for idx in range(one.n)]
            outputs.append(Space(outputs=samples))
        return outputs
"""

DEFAULTS = {
    "num_samples": 2, "num_problems": 0, "temperature": 0.7, "top_p": 1.0, "max_completion_length": 8, "seed": 3,
    "dtype": "auto", "engine": {}, "runtime": {"tensor_parallel_size": 8}, "problems_at_once": 2,
}


class GenerateTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "modules").mkdir()
        (self.folder / "modules/vllm.py").write_text(MODULE, encoding="utf-8")
        (self.folder / "model").mkdir()

    def start(self, *texts: str, module: bool = True, **params: Any) -> subprocess.CompletedProcess:
        problems = [{"version": 1, "id": f"p{idx}", "problem": text, "answer": "1"} for idx, text in enumerate(texts)]
        volvelle_sdk.write_jsonl(self.folder / "problems", problems)
        volvelle_sdk.write_json(self.folder / "request", {
            "contract": 1, "kind": "vllm.generate", "node": "n", "key": "0", "seed": 1, "params": {**DEFAULTS, **params},
            "inputs": {name: {"path": str(self.folder / name)} for name in ("model", "problems")},
            "outputs": {"samples": str(self.folder / "samples")}, "partial": str(self.folder / "partial"),
            "events": str(self.folder / "events"), "resources": {"cpu": 1, "gpu": [0]},
        })
        (self.folder / "scratch").mkdir(exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "modules") if module else ""}
        command = [sys.executable, *([] if module else ["-S", "-E"]), str(HERE / "vllm_generate.py"), str(self.folder / "request")]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder / "scratch", env=environment)

    def samples(self) -> List[Dict[str, Any]]:
        return list(volvelle_sdk.read_jsonl(self.folder / "samples"))

    def error(self) -> str:
        return [event["message"] for event in volvelle_sdk.read_jsonl(self.folder / "events") if event["event"] == "error"][-1]

    def test_each_problem_has_its_samples_in_order(self) -> None:
        result = self.start("a", "b", "c")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stdout.splitlines(), ["engine model 3 auto 8", "chat 2", "chat 1"])
        found = [(s["problem_id"], s["sample_idx"], s["completion"], s["num_tokens"], s["truncated"]) for s in self.samples()]
        self.assertEqual(found[:2], [("p0", 0, "a 0 0.7", 1, False), ("p0", 1, "a 1 0.7", 2, True)])
        self.assertEqual(len(found), 6)

    def test_what_was_finished_is_not_sampled_again(self) -> None:
        self.assertEqual(self.start("a", "b", "bad").returncode, 9)
        with open(self.folder / "partial/samples.jsonl", "a", encoding="utf-8") as file:
            file.write('{"id": "p2", "samp')  # killed while it wrote
        (self.folder / "well").touch()
        result = self.start("a", "b", "bad")
        self.assertEqual(result.stdout.splitlines()[1:], ["chat 1"])
        self.assertEqual([s["problem_id"] for s in self.samples()], ["p0", "p0", "p1", "p1", "p2", "p2"])

    def test_mistakes_are_told(self) -> None:
        self.assertEqual(self.start("a", engine={"tensor_paralel_size": 8}).returncode, 1)
        self.assertIn("vLLM refuses the settings in `engine`", self.error())
        for params, words in [
            ({"runtime": {"quantization": "fp8"}}, "`runtime.quantization` can't be set: it may change the samples"),
            ({"engine": {"seed": 1}}, "`engine.seed` can't be set"),
            ({"engine": {"tensor_parallel_size": 2}}, "`tensor_parallel_size` is set in `engine` and in `runtime`"),
        ]:
            self.assertEqual(self.start("a", **params).returncode, 1)
            self.assertIn(words, self.error())
        self.assertEqual(self.start(module=True).returncode, 1)
        self.assertIn("no problems", self.error())
        self.assertEqual(self.start("a", module=False).returncode, 1)
        self.assertIn("needs the library `vllm`", self.error())
        (self.folder / "model/endpoint.json").write_text("{}", encoding="utf-8")
        self.assertEqual(self.start("a").returncode, 1)
        self.assertIn("a served model", self.error())

    def test_at_temperature_0_one_sample_is_drawn(self) -> None:
        self.assertEqual(self.start("a", "b", temperature=0.0).returncode, 0)
        self.assertEqual([(s["problem_id"], s["sample_idx"]) for s in self.samples()], [("p0", 0), ("p1", 0)])
        warnings = [e["message"] for e in volvelle_sdk.read_jsonl(self.folder / "events") if e["event"] == "warning"]
        self.assertEqual(warnings, ["at temperature 0 all samples of a problem are the same: one is drawn instead of 2"])

    def test_a_problem_has_its_own_seed(self) -> None:
        seeds = {vllm_generate.problem_seed(seed, name) for seed in range(3) for name in ("p1", "p2")}
        self.assertEqual(len(seeds), 6)
        self.assertTrue(all(0 <= seed < 2**63 for seed in seeds))


if __name__ == "__main__":
    unittest.main()
