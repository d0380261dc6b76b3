"""The trainer: TRL's SFTTrainer or GRPOTrainer on rows that `trl_worker.py` made. A launcher starts it once a process.

Only the first process writes: events, metrics, models. All of them take part in saving, as sharded weights need it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Dict, List, Optional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "sdk"))

import trl_config  # noqa: E402
import trl_data  # noqa: E402
import trl_reward  # noqa: E402
import volvelle_sdk  # noqa: E402  (beside this plugin, not installed)
from volvelle_sdk import Failure, Job  # noqa: E402

try:
    import torch
    import transformers
    import trl
    from datasets import Dataset

    MISSING: Optional[ImportError] = None
    Callback: Any = transformers.TrainerCallback
except ImportError as error:
    MISSING = error
    Callback = object

# The exit code of a training that was asked to stop.
STOPPED = 3


def num_processes() -> int:
    """Returns how many processes train together, as launchers say it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def any_process(flags: List[bool]) -> List[bool]:
    """Returns which flags are set in any of the processes: they must save and stop at the same step."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flags
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    values = torch.tensor([float(flag) for flag in flags], device=device)
    torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
    return [value > 0 for value in values.tolist()]


class Keeper(Callback):
    """Reports, saves now and then, keeps models on the way, and ends the training on SIGTERM."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.trainer: Any = None
        self.told_to_stop = False
        self.stopped = False
        self.saved_at = time.monotonic()
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: Any) -> None:
        self.told_to_stop = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saved_at = time.monotonic()
        if is_first():
            self.job.progress(state.global_step, state.max_steps, "step")

    def on_log(self, args: Any, state: Any, control: Any, logs: Optional[Dict[str, Any]] = None, **_: Any) -> None:
        if is_first() and logs and "train_runtime" not in logs:
            for name, value in trl_data.metric_values(logs).items():
                self.job.metric(name, value, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = state.global_step
        if is_first():
            self.job.progress(step, state.max_steps, "step")
        every = self.job.params["checkpoint_steps"]
        if every and step % every == 0:
            save_model(self.trainer, self.job.partial / "kept" / f"step-{step:06}")
        seconds = self.job.params["save_seconds"]
        due = seconds > 0 and time.monotonic() - self.saved_at >= seconds
        stop, due = any_process([self.told_to_stop, due])
        if (stop or due) and step < state.max_steps and self._is_between_rollouts(args, step):
            control.should_save = True
        if stop and step < state.max_steps:
            self.stopped = control.should_training_stop = True

    @staticmethod
    def _is_between_rollouts(args: Any, step: int) -> bool:
        """Whether no rollouts are left to learn from: TRL saves none, and would sample others."""
        batches = getattr(args, "steps_per_generation", None)
        if batches is None:
            return True
        return (step * args.gradient_accumulation_steps) % (batches * args.num_iterations) == 0

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saved_at = time.monotonic()
        if not is_first():
            return
        name = f"checkpoint-{state.global_step}"
        notes = self.job.partial / "whole"
        notes.mkdir(parents=True, exist_ok=True)
        note = {"version": 1, "step": state.global_step, "checkpoint": name, "processes": num_processes()}
        os.sync()
        volvelle_sdk.write_json(notes / f"{name}.tmp", note)
        os.replace(notes / f"{name}.tmp", notes / f"{name}.json")


def save_model(trainer: Any, folder: Path) -> None:
    """Writes a Hugging Face folder; an adapter is merged into the weights, and beside them in `adapter`."""
    if is_first():
        shutil.rmtree(folder, ignore_errors=True)
    sharding = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    kind = sharding.state_dict_type if sharding is not None else None
    if sharding is not None:
        sharding.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(folder))
    if sharding is not None:
        sharding.set_state_dict_type(kind)
    if not is_first():
        return
    # Settings of the run as a pickle, paths in it: no part of a model.
    (folder / "training_args.bin").unlink(missing_ok=True)
    (folder / "README.md").unlink(missing_ok=True)
    if (folder / "adapter_config.json").exists():
        merge_adapter(folder, trainer)


def merge_adapter(folder: Path, trainer: Any) -> None:
    """Turns the folder of an adapter into one of a model: base and adapter added up, on the CPU, whatever trained it."""
    import peft

    adapter = folder / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        os.replace(folder / name, adapter / name)
    base = transformers.AutoModelForCausalLM.from_pretrained(base_folder(trainer), dtype="auto", device_map="cpu")
    peft.PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().save_pretrained(str(folder))
    # Where the base lay in this run is nothing that another machine could use, and would change the bytes.
    config = volvelle_sdk.read_json(adapter / "adapter_config.json")
    config["base_model_name_or_path"] = None
    volvelle_sdk.write_json(adapter / "adapter_config.json", config)


def base_folder(trainer: Any) -> str:
    return trainer.model.peft_config["default"].base_model_name_or_path


def checkpoint_of(job: Job, note_path: Optional[str]) -> Optional[str]:
    """Returns the folder of the checkpoint to continue from, unless it was written by another number of processes."""
    if note_path is None:
        return None
    note = volvelle_sdk.read_json(note_path)
    if note.get("processes") != num_processes():
        if is_first():
            job.warning(
                f"{note['checkpoint']} was saved by {note.get('processes')} processes, but this attempt has "
                f"{num_processes()}: it starts over"
            )
        return None
    if is_first():
        job.info(f"continues from step {note['step']}")
    return str(job.partial / "trainer" / note["checkpoint"])


def adapter_config(settings: Optional[Dict[str, Any]]) -> Any:
    """Returns PEFT's configuration of the adapter; `None` trains all weights."""
    if settings is None:
        return None
    try:
        import peft
    except ImportError as error:
        raise missing("peft", error) from error
    trl_config.check_settings("peft", settings, peft.LoraConfig)
    return peft.LoraConfig(**{"task_type": "CAUSAL_LM", **settings})


def missing(package: str, error: ImportError) -> Failure:
    return Failure(
        f"{sys.executable} can't import {package}: {error}",
        hint="pip install trl peft, or let `launcher` start a Python that has them",
    )


def make_trainer(job: Job, task: Dict[str, Any], keeper: Keeper) -> Any:
    """Returns TRL's trainer for the kind."""
    is_grpo = job.kind == "trl.grpo"
    config_class = trl.GRPOConfig if is_grpo else trl.SFTConfig
    on_cpu = not torch.cuda.is_available()
    settings = trl_config.arguments(job.params, config_class, job.partial / "trainer", num_processes(), on_cpu)
    try:
        args = config_class(**settings)
    except (TypeError, ValueError) as error:
        raise Failure(f"TRL refuses the settings: {error}") from error
    common = {
        "model": str(job.input("model").path),
        "args": args,
        "train_dataset": Dataset.from_list(list(volvelle_sdk.read_jsonl(task["rows"]))),
        "peft_config": adapter_config(job.params["peft"]),
        "callbacks": [keeper],
    }
    if not is_grpo:
        return trl.SFTTrainer(**common)
    ends: List[int] = []
    reward = trl_reward.reward_function(
        Path(task["verifier"]), job.params["reward"], args.max_completion_length, lambda: ends
    )
    trainer = trl.GRPOTrainer(reward_funcs=reward, **common)
    ends.extend(end_tokens(trainer))
    return trainer


def end_tokens(trainer: Any) -> List[int]:
    """Returns the tokens that end a completion, as the tokenizer and the model's own settings name them."""
    settings = getattr(trainer.accelerator.unwrap_model(trainer.model), "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    found = [trainer.processing_class.eos_token_id, *(named if isinstance(named, list) else [named])]
    return [token for token in found if token is not None]


def write_outputs(job: Job, trainer: Any) -> None:
    """Writes `metrics` and `checkpoints`; `model` is there already."""
    lines = trl_data.metric_lines(trainer.state.log_history)
    volvelle_sdk.write_jsonl(job.output("metrics"), lines)
    rows = {line["step"]: {name: value for name, value in line.items() if name != "step"} for line in lines}
    output = job.output("checkpoints")
    output.mkdir(parents=True)
    every = job.params["checkpoint_steps"]
    steps = range(every, trainer.state.global_step + 1, every) if every else []
    index = []
    for step in steps:
        folder = f"step-{step:06}"
        shutil.move(str(job.partial / "kept" / folder), str(output / folder))
        index.append({"step": step, "folder": folder, "metrics": rows.get(step, {})})
    volvelle_sdk.write_json(output / "index.json", {"version": 1, "checkpoints": index})


def train(job: Job, task: Dict[str, Any]) -> int:
    """Trains, and returns the exit code."""
    if MISSING is not None:
        raise missing("what training needs", MISSING)
    if not torch.cuda.is_available():
        torch.set_num_threads(job.cpu)
    keeper = Keeper(job)
    trainer = make_trainer(job, task, keeper)
    keeper.trainer = trainer
    trainer.train(resume_from_checkpoint=checkpoint_of(job, task["continue"]))
    if keeper.stopped:
        if is_first():
            job.info(f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}")
        return STOPPED
    save_model(trainer, job.output("model"))
    if is_first():
        write_outputs(job, trainer)
    return 0


def main() -> None:
    task = volvelle_sdk.read_json(sys.argv[1])
    job = Job(volvelle_sdk.read_json(task["request"]))
    try:
        code = train(job, task)
    except Failure as failure:
        job.error(str(failure), failure.hint)
        code = 1
    except Exception as error:  # the boundary: whatever went wrong must reach the user as a message
        traceback.print_exc()
        job.error(f"{type(error).__name__}: {error}")
        code = 1
    if code == 1:
        Path(task["reported"]).touch()
    raise SystemExit(code)


if __name__ == "__main__":
    main()
