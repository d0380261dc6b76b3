"""Tests of what needs no TRL: data, settings, rewards, and the way a training is started and continued."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any, Dict, List, Optional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import trl_config  # noqa: E402
import trl_data  # noqa: E402
import trl_reward  # noqa: E402
import trl_worker  # noqa: E402
import volvelle_sdk  # noqa: E402
from volvelle_sdk import Failure  # noqa: E402


class Folder(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def lines(self, name: str, values: List[Any]) -> Path:
        volvelle_sdk.write_jsonl(self.folder / name, values)
        return self.folder / name

    def program(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(f"#!{sys.executable}\n{text}", encoding="utf-8")
        path.chmod(0o755)
        return path


def chat(*contents: str, **last: Any) -> Dict[str, Any]:
    messages = [{"role": ("user", "assistant")[idx % 2], "content": content} for idx, content in enumerate(contents)]
    messages[-1].update(last)
    return {"messages": messages, "problem_id": "p", "num_backtracks": 0}


def problem(**fields: Any) -> Dict[str, Any]:
    return {"version": 1, "id": "p1", "problem": "1 + 1?", "answer": "2", "verifier": "math", **fields}


class DataTest(Folder):
    def test_chats_are_whole_or_a_prompt_and_a_completion(self) -> None:
        path = self.lines("chats", [chat("q", "a"), chat("q", "a", "r", "b")])
        whole = trl_data.sft_rows(path, False)
        self.assertEqual(whole[0], {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})
        split = trl_data.sft_rows(path, True)
        self.assertEqual([len(row["prompt"]) for row in split], [1, 3])
        self.assertEqual(split[1]["completion"], [{"role": "assistant", "content": "b"}])

    def test_what_trl_could_not_learn_as_it_is_meant_is_refused_with_its_place(self) -> None:
        for value, words in [
            ([], "no chats"),
            ([{"id": "x"}], "chat 1 has no `messages`"),
            ([chat("q", "a"), chat("q", "a", masked=[[0, 1]])], "chat 2 has parts that are not to be learned"),
            ([chat("q", "a", content=7)], "without `role` and `content`"),
        ]:
            with self.assertRaisesRegex(Failure, words):
                trl_data.sft_rows(self.lines("chats", value), False)
        with self.assertRaisesRegex(Failure, "chat 1 does not end with an answer"):
            trl_data.sft_rows(self.lines("chats", [chat("q")]), True)

    def test_problems_become_prompts(self) -> None:
        row = trl_data.grpo_rows(self.lines("problems", [problem()]))[0]
        self.assertEqual(row, {"prompt": [{"role": "user", "content": "1 + 1?"}], "answer": "2", "problem_id": "p1"})
        for value, words in [
            ([], "no problems"),
            ([problem(answer=2)], "problem 1 has no text `answer`"),
            ([problem(), problem(verifier="countdown")], "problem 2 is judged by the verifier 'countdown'"),
        ]:
            with self.assertRaisesRegex(Failure, words):
                trl_data.grpo_rows(self.lines("problems", value))

    def test_metrics_have_our_names_and_no_times(self) -> None:
        history = [
            {"loss": 0.5, "step": 2, "epoch": 1.0, "completions/mean_length": 7, "step_time": 3.2, "nan": float("nan")},
            {"loss": 0.75, "step": 1, "flag": True},
            {"kl": 0.1, "step": 2},
            {"train_runtime": 12.0, "train_loss": 0.6, "step": 2},
        ]
        self.assertEqual(
            trl_data.metric_lines(history),
            [{"step": 1, "loss": 0.75}, {"step": 2, "loss": 0.5, "epoch": 1.0, "completion_length": 7.0, "kl": 0.1}],
        )
        # The same log in another order gives the same bytes.
        backwards = [dict(reversed(entry.items())) for entry in history]
        self.assertEqual(*(json.dumps(trl_data.metric_lines(entries)) for entries in (history, backwards)))


@dataclasses.dataclass
class Config:
    """A configuration class as TRL's are."""

    output_dir: str = ""
    learning_rate: float = 2e-5
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    steps_per_generation: Optional[int] = None
    gradient_checkpointing: bool = True
    deepspeed: Any = None
    hub_model_id: Optional[str] = None
    seed: int = 0
    internal: int = dataclasses.field(default=0, init=False)


class ConfigTest(unittest.TestCase):
    def arguments(self, processes: int = 1, on_cpu: bool = False, **params: Any) -> Dict[str, Any]:
        params = {"config": {}, "runtime_config": {}, "global_batch_size": None, "seed": 7, **params}
        return trl_config.arguments(params, Config, Path("out"), processes, on_cpu)

    def test_settings_reach_trl_under_its_names(self) -> None:
        found = self.arguments(config={"learning_rate": 1e-3}, on_cpu=True)
        self.assertEqual((found["learning_rate"], found["seed"], found["output_dir"]), (1e-3, 7, "out"))
        self.assertEqual((found["report_to"], found["logging_steps"], found["use_cpu"]), ("none", 1, True))
        self.assertNotIn("per_device_train_batch_size", found)

    def test_unknown_and_foreign_settings_are_refused_by_name(self) -> None:
        for where in ("config", "runtime_config"):
            with self.assertRaisesRegex(Failure, f"`{where}` has no setting `learning_rat`") as raised:
                self.arguments(**{where: {"learning_rat": 1}})
            self.assertEqual(raised.exception.hint, "did you mean `learning_rate`?")
        with self.assertRaisesRegex(Failure, "no setting `internal`"):
            self.arguments(config={"internal": 1})
        with self.assertRaisesRegex(Failure, "`config.seed` can't be set: it is a parameter of the stage"):
            self.arguments(config={"seed": 1})
        with self.assertRaisesRegex(Failure, "shared through the cache"):
            self.arguments(config={"hub_model_id": "x"})
        with self.assertRaisesRegex(Failure, "in `config` and in `runtime_config`"):
            self.arguments(config={"gradient_checkpointing": True}, runtime_config={"gradient_checkpointing": False})

    def test_what_changes_the_result_is_not_taken_where_no_key_has_it(self) -> None:
        found = self.arguments(runtime_config={"gradient_checkpointing": False, "deepspeed": {"zero_optimization": {"stage": 3}}})
        self.assertIs(found["gradient_checkpointing"], False)
        for settings, words in [
            ({"learning_rate": 1e-3}, "`runtime_config.learning_rate` can't be set: it may change the result"),
            ({"gradient_accumulation_steps": 2}, "`runtime_config.gradient_accumulation_steps` can't be set"),
            ({"per_device_train_batch_size": 4}, "would decide the size of an optimizer step"),
            ({"deepspeed": {"optimizer": {"type": "SGD"}}}, "can't say `optimizer`"),
        ]:
            with self.assertRaisesRegex(Failure, words):
                self.arguments(runtime_config=settings)
        # In `config`, which is in the key, they are free.
        self.assertEqual(self.arguments(config={"per_device_train_batch_size": 4})["per_device_train_batch_size"], 4)
        # Batches of all processes: with a size of the step, rollouts are said by their number.
        self.assertEqual(self.arguments(config={"steps_per_generation": 2})["steps_per_generation"], 2)
        with self.assertRaisesRegex(Failure, "`config.steps_per_generation` counts batches"):
            self.arguments(global_batch_size=8, config={"steps_per_generation": 2})

    def test_a_step_has_the_size_that_was_asked_for_on_any_number_of_processes(self) -> None:
        for processes, expected in [(1, 16), (2, 8), (8, 2)]:
            found = self.arguments(processes, global_batch_size=128)
            self.assertEqual(found["gradient_accumulation_steps"], expected)
        found = self.arguments(64, global_batch_size=128, runtime_config={"per_device_train_batch_size": 1})
        self.assertEqual(found["gradient_accumulation_steps"], 2)
        with self.assertRaisesRegex(Failure, "128 is not a multiple of 24: 3 processes"):
            self.arguments(3, global_batch_size=128)
        with self.assertRaisesRegex(Failure, "it can't be set beside it"):
            self.arguments(global_batch_size=8, config={"gradient_accumulation_steps": 2})

    def test_several_processes_need_a_size(self) -> None:
        self.assertEqual(self.arguments(config={"gradient_accumulation_steps": 3})["gradient_accumulation_steps"], 3)
        with self.assertRaises(Failure) as raised:
            self.arguments(4)
        self.assertIn("global_batch_size: 32", str(raised.exception.hint))


class RewardTest(Folder):
    def verifier(self) -> Path:
        """A program that takes texts as equal where the answer is the last word."""
        return self.program(
            "volvelle-torch",
            "import json, sys\n"
            "for line in sys.stdin:\n"
            "    pair = json.loads(line)\n"
            "    print(json.dumps({'equal': pair['pred'].split()[-1:] == [pair['gold']], 'how': 'text'}))\n",
        )

    def test_rewards_follow_the_verdicts_and_truncation_is_wrong(self) -> None:
        logged: Dict[str, float] = {}
        reward = trl_reward.reward_function(self.verifier(), {"correct": 1.0, "wrong": -1.0}, 3, lambda: [9])
        texts = ["it is 2", "it is 3", "it is 2", "it is 2"]
        completions: Any = [[{"role": "assistant", "content": text}] for text in texts]
        ids = [[1, 9], [1, 2], [1, 2, 3], [1, 2, 9]]
        found = reward(completions=completions, completion_ids=ids, answer=["2"] * 4, log_metric=logged.__setitem__)
        self.assertEqual(found, [1.0, -1.0, -1.0, 1.0])
        self.assertEqual(logged, {"pass_rate": 0.5, "backtracks": 0.0})
        self.assertEqual(reward(completions=["so 2"], completion_ids=[[9]], answer=["2"]), [1.0])
        self.assertEqual(reward(completions=[], completion_ids=[], answer=[]), [])

    def test_a_verifier_that_fails_says_so(self) -> None:
        with self.assertRaisesRegex(Failure, "can't judge the answers: no such thing"):
            trl_reward.judge(self.program("bad", "import sys; sys.exit('no such thing')"), [("1", "1")])
        with self.assertRaisesRegex(Failure, "gave 0 verdicts on 1 answers"):
            trl_reward.judge(self.program("mute", "import sys; sys.stdin.read()"), [("1", "1")])
        with self.assertRaisesRegex(Failure, "can't judge"):
            trl_reward.judge(self.folder / "absent", [("1", "1")])

    def test_the_verifier_is_looked_for_beside_the_engine_and_on_path(self) -> None:
        program = self.verifier()
        self.assertEqual(trl_reward.find_verifier(self.folder / "volvelle"), program)
        (self.folder / "empty").mkdir()
        before = os.environ["PATH"]
        self.addCleanup(os.environ.__setitem__, "PATH", before)
        os.environ["PATH"] = str(self.folder)
        self.assertEqual(trl_reward.find_verifier(self.folder / "empty/volvelle"), program)
        os.environ["PATH"] = str(self.folder / "empty")
        with self.assertRaisesRegex(Failure, "neither beside volvelle nor on PATH"):
            trl_reward.find_verifier(self.folder / "empty/volvelle")

    def test_the_real_verifier_agrees(self) -> None:
        programs = [HERE.parents[1] / "target" / profile / trl_reward.PROGRAM for profile in ("release", "debug")]
        program = next((path for path in programs if path.exists()), None)
        if program is None:
            reason = f"{trl_reward.PROGRAM} is not built"
            print(f"skipped: {self.id()}: {reason}", file=sys.stderr)
            self.skipTest(reason)
        pairs = [("1/2", "It is \\boxed{0.5}."), ("2", "The answer is 3."), ("\\sqrt{8}", "\\boxed{2\\sqrt2}"), ("5", "")]
        self.assertEqual(trl_reward.judge(program, pairs), [True, False, True, False])

    def test_backtracks_are_counted_by_paragraph_and_before_the_answer(self) -> None:
        text = "Step.\n\nHmm. Let's go back to x. Let's go back to y.\n\nlet’s restart\n\n\\boxed{1}\n\nLet's go back to z."
        self.assertEqual(trl_reward.count_backtracks(text), 2)
        self.assertEqual(trl_reward.count_backtracks("Let's restart"), 1)


class WorkerTest(Folder):
    """Runs the plugin as the engine does, with a launcher that tells what it was given, or does what a trainer may do."""

    def start(self, script: str, kind: str = "trl.sft", **params: Any) -> subprocess.CompletedProcess:
        (self.folder / "model").mkdir(exist_ok=True)
        data = self.lines("data", [chat("q", "a")]) if kind == "trl.sft" else self.lines("data", [problem()])
        defaults = {
            "config": {}, "runtime_config": {}, "global_batch_size": None, "peft": None, "checkpoint_steps": 0, "seed": 0,
            "launcher": [str(self.program("launcher", script))], "save_seconds": 600, "reward": {"correct": 1, "wrong": -1},
        }
        names = {"model": "model", "data" if kind == "trl.sft" else "problems": data.name}
        request = {
            "contract": 1, "kind": kind, "node": "train", "key": "0", "seed": 1, "params": {**defaults, **params},
            "inputs": {name: {"path": str(self.folder / file), "axes": {}, "label": None} for name, file in names.items()},
            "outputs": {name: str(self.folder / f"out-{name}") for name in ("model", "metrics", "checkpoints")},
            "partial": str(self.folder / "partial"), "events": str(self.folder / "events"),
            "resources": {"cpu": 1, "gpu": [], "mem_bytes": None},
        }
        volvelle_sdk.write_json(self.folder / "request", request)
        scratch = tempfile.mkdtemp(dir=self.folder)
        command = [sys.executable, str(HERE / "trl_worker.py"), str(self.folder / "request")]
        return subprocess.run(command, capture_output=True, text=True, cwd=scratch)

    def events(self, name: str) -> List[Dict[str, Any]]:
        return [event for event in volvelle_sdk.read_jsonl(self.folder / "events") if event["event"] == name]

    def test_the_launcher_gets_the_script_and_the_task(self) -> None:
        told = self.folder / "told"
        result = self.start(f"import os, sys, shutil; shutil.copy(sys.argv[2], {str(told)!r}); print(sys.argv[1])")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stdout.strip(), str(HERE / "trl_train.py"))
        task = volvelle_sdk.read_json(told)
        self.assertEqual((task["continue"], task["verifier"]), (None, None))
        self.assertEqual(next(volvelle_sdk.read_jsonl(task["rows"]))["messages"][1]["content"], "a")

    def test_how_a_trainer_ended_is_told(self) -> None:
        self.assertEqual(self.start("import sys; sys.exit(5)").returncode, 1)
        self.assertIn("exit code 5", self.events("error")[-1]["message"])
        self.assertEqual(self.start("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").returncode, 1)
        self.assertIn("signal 9", self.events("error")[-1]["message"])
        # One that has told why itself has the last word.
        before = len(self.events("error"))
        self.assertEqual(self.start("import sys; open('reported', 'w'); sys.exit(1)").returncode, 1)
        self.assertEqual(len(self.events("error")), before)

    def test_what_cannot_be_started_is_told(self) -> None:
        self.assertEqual(self.start("", launcher=["no-such-launcher"]).returncode, 1)
        self.assertIn("`no-such-launcher` is not on PATH", self.events("error")[-1]["message"])
        (self.folder / "model/endpoint.json").parent.mkdir(exist_ok=True)
        (self.folder / "model/endpoint.json").write_text("{}", encoding="utf-8")
        self.assertEqual(self.start("").returncode, 1)
        self.assertIn("a served model", self.events("error")[-1]["message"])

    def checkpoint(self, step: int, whole: bool = True) -> None:
        (self.folder / f"partial/trainer/checkpoint-{step}").mkdir(parents=True, exist_ok=True)
        (self.folder / "partial/whole").mkdir(exist_ok=True)
        if whole:
            note = {"version": 1, "step": step, "checkpoint": f"checkpoint-{step}", "processes": 1}
            volvelle_sdk.write_json(self.folder / f"partial/whole/checkpoint-{step}.json", note)

    def test_the_newest_whole_checkpoint_is_continued_from(self) -> None:
        partial = self.folder / "partial"
        self.assertIsNone(trl_worker.whole_checkpoint(partial))
        for step, whole in [(5, True), (10, True), (15, False)]:
            self.checkpoint(step, whole)
        self.assertEqual(trl_worker.whole_checkpoint(partial), partial / "whole/checkpoint-10.json")
        (partial / "whole/checkpoint-20.json").write_text("{torn", encoding="utf-8")
        (partial / "trainer/checkpoint-10").rmdir()
        self.assertEqual(trl_worker.whole_checkpoint(partial), partial / "whole/checkpoint-5.json")

    def test_after_two_failures_from_one_checkpoint_it_starts_over(self) -> None:
        told = self.folder / "told"
        script = f"import json, sys; open({str(told)!r}, 'a').write(str(json.load(open(sys.argv[2]))['continue']) + '\\n'); sys.exit(1)"
        self.checkpoint(5)
        for _ in range(3):
            self.start(script)
        lines = told.read_text(encoding="utf-8").splitlines()
        self.assertEqual([line.endswith("checkpoint-5.json") for line in lines], [True, True, False])
        self.assertIn("2 attempts that continued from checkpoint-5 failed", self.events("warning")[-1]["message"])
        self.assertFalse((self.folder / "partial/trainer").exists())

    def test_an_interrupt_is_no_failure(self) -> None:
        self.checkpoint(5)
        # The engine signals the whole group; here the worker alone, whose trainer ends as one that was stopped does.
        script = "import os, signal, sys, time; os.kill(os.getppid(), signal.SIGTERM); sys.exit(3)"
        for _ in range(4):
            self.assertEqual(self.start(script).returncode, 1)
        self.assertEqual(volvelle_sdk.read_json(self.folder / "partial/attempts.json")["attempts"], 0)
        self.assertEqual(self.events("warning") if (self.folder / "events").exists() else [], [])


if __name__ == "__main__":
    unittest.main()
