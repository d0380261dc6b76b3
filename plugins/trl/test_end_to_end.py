"""Both kinds through `volvelle run` on a tiny random model: trained, stopped and continued, opened again.

Skips, with the reason, where the engine is not built or TRL is not installed: CI has no TRL. The Python that runs this
test is the one whose TRL is used: `PATH=venv/bin:$PATH python3 -m unittest test_end_to_end.py`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any, Dict, List, Optional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
REPOSITORY = HERE.parent.parent
MODEL = REPOSITORY / "plugins/torch/tests/fixtures/models/smollm-tied"

PIPELINE = """
volvelle: 1
name: tiny
params: { model: %(model)s, config: {}, grpo: {}, peft: null, checkpoint_steps: 0, save_seconds: 600 }
stages:
  model: { uses: lm.load, with: { path: "${params.model}" } }
  data:
    uses: data.jsonl
    with: { path: %(data)s, solution_field: solution }
  sft:
    uses: trl.sft
    needs: { model: model.model, data: data.chats }
    with:
      config: "${params.config}"
      global_batch_size: 4
      runtime_config: { per_device_train_batch_size: 2, gradient_checkpointing: false }
      peft: "${params.peft}"
      checkpoint_steps: "${params.checkpoint_steps}"
      save_seconds: "${params.save_seconds}"
  grpo:
    uses: trl.grpo
    needs: { model: sft.model, problems: data.problems }
    with:
      config: "${params.grpo}"
      global_batch_size: 8
      runtime_config: { per_device_train_batch_size: 4, gradient_checkpointing: false }
      checkpoint_steps: "${params.checkpoint_steps}"
"""

SFT = {"max_steps": 6, "learning_rate": 1e-3, "bf16": False, "max_length": 128}
GRPO = {"max_steps": 2, "num_generations": 4, "max_completion_length": 8, "learning_rate": 1e-4, "bf16": False, "beta": 0.0}

DEFAULTS = {"config": {}, "runtime_config": {}, "global_batch_size": None}


def engine() -> Optional[Path]:
    programs = (REPOSITORY / "target" / profile / "volvelle" for profile in ("release", "debug"))
    return next((path for path in programs if path.exists() and path.with_name("volvelle-torch").exists()), None)


def missing() -> Optional[str]:
    if engine() is None:
        return "volvelle is not built"
    absent = [name for name in ("torch", "trl", "peft") if importlib.util.find_spec(name) is None]
    return f"{sys.executable} has no {', '.join(absent)}" if absent else None


REASON = missing()
if REASON is not None:
    print(f"skipped: {Path(__file__).name}: {REASON}", file=sys.stderr)


@unittest.skipIf(REASON is not None, REASON or "")
class RunTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        data = self.folder / "data.jsonl"
        lines = [{"problem": f"{a} + {a + 1}?", "answer": str(2 * a + 1), "solution": f"{a} + {a + 1} = {2 * a + 1}"} for a in range(12)]
        data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        self.pipeline = self.folder / "tiny.yaml"
        self.pipeline.write_text(PIPELINE % {"model": MODEL, "data": data}, encoding="utf-8")

    def command(self, *words: str, cache: str = "cache", **params: Any) -> List[str]:
        sets = [word for name, value in params.items() for word in ("--set", f"{name}={json.dumps(value)}")]
        return [str(engine()), "--cache", str(self.folder / cache), words[0], str(self.pipeline), *words[1:], *sets]

    def environment(self) -> Dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "VOLVELLE_PLUGINS": str(REPOSITORY / "plugins")}

    def volvelle(self, *words: str, cache: str = "cache", **params: Any) -> subprocess.CompletedProcess:
        command = self.command(*words, cache=cache, **params)
        return subprocess.run(command, capture_output=True, text=True, env=self.environment())

    def output(self, name: str, **options: Any) -> Path:
        shown = self.volvelle("show", name, "--path", **options)
        self.assertEqual(shown.returncode, 0, shown.stderr)
        return Path(shown.stdout.strip())

    def test_sft_and_grpo_make_a_model_metrics_and_checkpoints(self) -> None:
        params = {"config": SFT, "grpo": GRPO, "checkpoint_steps": 2}
        run = self.volvelle("run", **params)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        lines = [json.loads(line) for line in self.output("sft.metrics", **params).read_text().splitlines()]
        self.assertEqual([line["step"] for line in lines], [1, 2, 3, 4, 5, 6])
        self.assertLess(lines[-1]["loss"], lines[0]["loss"])
        lines = [json.loads(line) for line in self.output("grpo.metrics", **params).read_text().splitlines()]
        self.assertEqual(len(lines), 2)
        for name in ("reward", "completion_length", "pass_rate", "backtracks", "truncated", "entropy"):
            self.assertIn(name, lines[0])
        self.assertNotIn("step_time", lines[0])
        # Random weights answer nothing.
        self.assertEqual((lines[0]["reward"], lines[0]["pass_rate"]), (-1.0, 0.0))
        checkpoints = self.output("sft.checkpoints", **params)
        index = json.loads((checkpoints / "index.json").read_text())
        self.assertEqual([entry["step"] for entry in index["checkpoints"]], [2, 4, 6])
        model = self.output("sft.model", **params)
        self.assertEqual((checkpoints / "step-000006/model.safetensors").read_bytes(), (model / "model.safetensors").read_bytes())
        self.assertFalse((model / "training_args.bin").exists())
        # Our own program opens it.
        prompts = self.folder / "prompts.jsonl"
        prompts.write_text(json.dumps({"prompt": "1 + 2?"}) + "\n", encoding="utf-8")
        words = [str(engine().with_name("volvelle-torch")), "generate", "--model", str(model), "--input", str(prompts)]
        generated = subprocess.run([*words, "--max-new-tokens", "4", "--greedy"], capture_output=True, text=True)
        self.assertEqual(generated.returncode, 0, generated.stderr)
        again = self.volvelle("run", **params)
        self.assertIn("nothing to do", again.stdout + again.stderr)

    def test_an_adapter_is_merged_and_kept(self) -> None:
        params = {"config": SFT, "peft": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}}
        run = self.volvelle("run", "--until", "sft", **params)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        model = self.output("sft.model", **params)
        self.assertTrue((model / "model.safetensors").exists())
        self.assertTrue((model / "adapter/adapter_model.safetensors").exists())
        self.assertNotEqual((model / "model.safetensors").read_bytes(), (MODEL / "model.safetensors").read_bytes())

    def test_a_stopped_training_continues_to_the_same_bytes(self) -> None:
        config = {**SFT, "max_steps": 60}
        params = {"config": config}
        whole = self.volvelle("run", "--until", "sft", **params)
        self.assertEqual(whole.returncode, 0, whole.stdout + whole.stderr)
        # In another cache: stopped as soon as some steps are done.
        process = subprocess.Popen(
            self.command("run", "--until", "sft", "--json", cache="other", **params), stdout=subprocess.PIPE, text=True, env=self.environment()
        )
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event.get("event") == "node_progress" and event["id"] == "sft" and event.get("done", 0) >= 5:
                process.send_signal(signal.SIGINT)
                break
        process.stdout.read()
        process.stdout.close()
        self.assertEqual(process.wait(), 130)
        notes = list((self.folder / "other/partial").glob("*/whole/*.json"))
        self.assertEqual(len(notes), 1, "the checkpoint is not there")
        rest = self.volvelle("run", "--until", "sft", cache="other", **params)
        self.assertEqual(rest.returncode, 0, rest.stdout + rest.stderr)
        for name in ("sft.model", "sft.metrics"):
            one, other = self.output(name, **params), self.output(name, cache="other", **params)
            if name == "sft.model":
                one, other = one / "model.safetensors", other / "model.safetensors"
            self.assertEqual(one.read_bytes(), other.read_bytes(), name)

    def test_two_processes_make_steps_of_the_same_size(self) -> None:
        # Without dropout the mean over four chats is the same however they are dealt out, up to rounding.
        losses = []
        for cache, launcher in [("one", []), ("two", [f"{Path(sys.executable).parent}/torchrun", "--nproc-per-node=2"])]:
            params = {"config": {**SFT, "max_steps": 3}, "checkpoint_steps": 2, "stages.sft.with.launcher": launcher}
            run = self.volvelle("run", "--until", "sft", cache=cache, **params)
            self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
            lines = self.output("sft.metrics", cache=cache, **params).read_text().splitlines()
            losses.append([json.loads(line)["loss"] for line in lines])
            index = json.loads((self.output("sft.checkpoints", cache=cache, **params) / "index.json").read_text())
            self.assertEqual([entry["step"] for entry in index["checkpoints"]], [2])
        for one, two in zip(*losses):
            self.assertAlmostEqual(one, two, places=2)

    def test_an_unknown_setting_is_refused_by_name(self) -> None:
        run = self.volvelle("run", "--until", "sft", config={**SFT, "learning_rat": 1.0})
        self.assertEqual(run.returncode, 1)
        self.assertIn("`config` has no setting `learning_rat`", run.stdout + run.stderr)
        self.assertIn("did you mean `learning_rate`?", run.stdout + run.stderr)

    def test_the_settings_of_the_pipelines_are_trls(self) -> None:
        import trl
        import yaml

        import trl_config

        classes = {"trl.sft": trl.SFTConfig, "trl.grpo": trl.GRPOConfig}
        checked = 0
        for path in sorted((REPOSITORY / "pipelines").glob("*.yaml")):
            for name, stage in yaml.safe_load(path.read_text(encoding="utf-8"))["stages"].items():
                if stage.get("uses") not in classes:
                    continue
                params = {**DEFAULTS, **stage["with"], "seed": 0}
                # What is a reference of the pipeline's has a value that does.
                config = {key: 1 if str(value).startswith("${") else value for key, value in params["config"].items()}
                config_class = classes[stage["uses"]]
                settings = trl_config.arguments({**params, "config": config}, config_class, self.folder, 1, True)
                with self.subTest(pipeline=path.name, stage=name):
                    config_class(**settings)
                checked += 1
        self.assertGreaterEqual(checked, 2)


if __name__ == "__main__":
    unittest.main()
