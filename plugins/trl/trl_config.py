"""From a stage's parameters to the arguments of TRL's SFTConfig, GRPOConfig and PEFT's LoraConfig."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, Mapping, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "sdk"))

from volvelle_sdk import Failure  # noqa: E402  (beside this plugin, not installed)

# Settings that are not the pipeline's to make, and why.
REFUSED = {
    "output_dir": "the engine says where outputs go",
    "seed": "it is a parameter of the stage itself",
    "data_seed": "the stage's `seed` decides it",
    "resume_from_checkpoint": "an interrupted stage continues by itself",
    "save_strategy": "`save_seconds` says when to save, `checkpoint_steps` which models to keep",
    "save_steps": "`save_seconds` says when to save, `checkpoint_steps` which models to keep",
    "save_total_limit": "what is saved is kept until the stage is done",
    "save_only_model": "an interrupted stage continues from the state of the optimizer, too",
    "load_best_model_at_end": "an evaluation is a stage of its own, over `checkpoints`",
    "push_to_hub": "results are shared through the cache",
    "eval_strategy": "an evaluation is a stage of its own, over `checkpoints`",
    "do_eval": "an evaluation is a stage of its own, over `checkpoints`",
}

# What `runtime_config` takes, which is in no key: none of these says what is learned, or what `metrics` tells of it.
RUNTIME = frozenset({
    # memory and speed
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "activation_checkpointing", "activation_checkpointing_kwargs",
    "activation_offloading", "torch_empty_cache_steps", "torch_compile", "torch_compile_backend", "torch_compile_mode",
    "use_liger_kernel", "liger_kernel_config", "use_cpu", "ds3_gather_for_generation", "per_device_train_batch_size",
    # how the work is divided
    "fsdp", "fsdp_config", "deepspeed", "ddp_backend", "ddp_broadcast_buffers", "ddp_bucket_cap_mb",
    "ddp_find_unused_parameters", "ddp_static_graph", "ddp_timeout",
    # loading
    "dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory", "dataloader_prefetch_factor",
    "dataset_num_proc",
    # logging elsewhere
    "report_to", "run_name", "project", "trackio_space_id", "log_level", "log_level_replica", "log_on_each_node",
    "disable_tqdm", "skip_memory_metrics", "log_completions", "num_completions_to_print", "log_unique_prompts",
    # where vLLM is, and what it may use
    "vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout", "vllm_group_port",
    "vllm_gpu_memory_utilization", "vllm_tensor_parallel_size", "vllm_enable_sleep_mode",
})

# Parts of a configuration of DeepSpeed that say what is learned.
DEEPSPEED_RESULT = ("optimizer", "scheduler")

# How far training is away from the engine: what TRL would log elsewhere, and when.
OURS = {"logging_steps": 1, "report_to": "none", "disable_tqdm": True}


def unknown_key(where: str, key: str, known: Iterable[str]) -> Failure:
    """Returns the refusal of a setting that does not exist, with the nearest that does."""
    near = difflib.get_close_matches(key, sorted(known), n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"`{where}` takes the names of the installed version's own class"
    return Failure(f"`{where}` has no setting `{key}`", hint=hint)


def check_settings(where: str, settings: Mapping[str, Any], config_class: Any) -> None:
    """Refuses settings that the class doesn't have, and those that the pipeline has other words for."""
    known = {field.name for field in dataclasses.fields(config_class) if field.init}
    for key in settings:
        if key in REFUSED or key.startswith("hub_"):
            raise Failure(f"`{where}.{key}` can't be set: {REFUSED.get(key, 'results are shared through the cache')}")
        if key not in known:
            raise unknown_key(where, key, known - set(REFUSED))


def check_runtime(runtime: Mapping[str, Any], global_batch_size: Optional[int]) -> None:
    """Refuses what would change the result, and would be in no key."""
    for key in runtime:
        if key not in RUNTIME:
            raise Failure(
                f"`runtime_config.{key}` can't be set: it may change the result, and `runtime_config` is in no key",
                hint="say it in `config`",
            )
    if global_batch_size is None and "per_device_train_batch_size" in runtime:
        raise Failure(
            "`runtime_config.per_device_train_batch_size` would decide the size of an optimizer step, and is in no key",
            hint="say `global_batch_size` beside it, or say it in `config`",
        )
    deepspeed = runtime.get("deepspeed")
    for key in DEEPSPEED_RESULT:
        if isinstance(deepspeed, dict) and key in deepspeed:
            raise Failure(
                f"`runtime_config.deepspeed` can't say `{key}`: it changes the result, and `runtime_config` is in no key",
                hint="TRL's settings in `config` say it: optim, learning_rate, lr_scheduler_type and so on",
            )


def accumulation_steps(global_batch_size: Optional[int], per_device: int, accumulate: int, processes: int) -> int:
    """Returns how many batches of a process make an optimizer step, so that it has the size that was asked for.

    Without a size one process alone is fine: there the result follows from the settings. With several it would depend
    on how many there are, which is in no key.
    """
    if global_batch_size is None:
        if processes > 1:
            size = per_device * accumulate * processes
            raise Failure(
                f"{processes} processes would make optimizer steps of {size}, and another launcher others",
                hint=f"say it in the pipeline: `global_batch_size: {size}`",
            )
        return accumulate
    if global_batch_size % (per_device * processes) != 0:
        raise Failure(
            f"global_batch_size {global_batch_size} is not a multiple of {per_device * processes}: {processes} "
            f"processes times per_device_train_batch_size {per_device}"
        )
    return global_batch_size // (per_device * processes)


def arguments(params: Mapping[str, Any], config_class: Any, output_dir: Path, processes: int, on_cpu: bool) -> Dict[str, Any]:
    """Returns all arguments of TRL's configuration class."""
    config, runtime = dict(params["config"]), dict(params["runtime_config"])
    check_settings("config", config, config_class)
    check_settings("runtime_config", runtime, config_class)
    twice = sorted(set(config) & set(runtime))
    if twice:
        raise Failure(f"`{twice[0]}` is set in `config` and in `runtime_config`", hint="say it once")
    size = params["global_batch_size"]
    check_runtime(runtime, size)
    settings = {**OURS, **config, **runtime}
    if size is not None and "gradient_accumulation_steps" in settings:
        raise Failure("`global_batch_size` decides gradient_accumulation_steps; it can't be set beside it")
    if size is not None and "steps_per_generation" in settings:
        raise Failure(
            "`config.steps_per_generation` counts batches of all processes, so the rollouts that it means would depend on "
            "how many there are",
            hint="say `generation_batch_size`, in rollouts",
        )
    defaults = {field.name: field.default for field in dataclasses.fields(config_class)}
    per_device = settings.get("per_device_train_batch_size", defaults["per_device_train_batch_size"])
    accumulate = settings.get("gradient_accumulation_steps", defaults["gradient_accumulation_steps"])
    settings["gradient_accumulation_steps"] = accumulation_steps(size, per_device, accumulate, processes)
    if on_cpu:
        settings.setdefault("use_cpu", True)
    # Two, so that there is a whole one while the next is written.
    saving = {"save_strategy": "no", "save_total_limit": 2}
    return {**settings, **saving, "seed": params["seed"], "output_dir": str(output_dir)}
