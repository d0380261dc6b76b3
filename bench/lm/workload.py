"""What is measured: the cases, and the same made-up tokens that `volvelle-torch bench` makes. Pure.

A case says what both programs do; `arguments` writes it as flags of `volvelle-torch bench`.
"""
CASES = {
    "generate-1": {"task": "generate", "batch_size": 1},
    "generate-8": {"task": "generate", "batch_size": 8, "unequal": True},
    "generate-32": {"task": "generate", "batch_size": 32, "unequal": True},
    "generate-8-equal": {"task": "generate", "batch_size": 8},
    "generate-32-equal": {"task": "generate", "batch_size": 32},
    "generate-256": {"task": "generate", "batch_size": 256, "cuda_only": True},
    "shared-prefix": {"task": "generate", "batch_size": 8, "shared": True, "prompt_length": 512, "max_new_tokens": 64},
    "sft": {"task": "sft", "batch_size": 4, "prompt_length": 512},
    "grpo": {"task": "grpo", "batch_size": 32, "num_generations": 8},
}
# What a case says if it does not say otherwise.
USUAL = {"prompt_length": 128, "max_new_tokens": 128, "unequal": False, "shared": False, "num_generations": 8}


def case(name):
    return {**USUAL, **CASES[name], "name": name}


def arguments(case):
    """Returns the flags of `volvelle-torch bench` for a case."""
    flags = ["--task", case["task"], "--batch-size", str(case["batch_size"]),
             "--prompt-length", str(case["prompt_length"]), "--max-new-tokens", str(case["max_new_tokens"])]
    flags += ["--unequal"] if case["unequal"] else []
    flags += ["--shared-prefix"] if case["shared"] else []
    if case["task"] == "grpo":
        flags += ["--num-generations", str(case["num_generations"])]
    return flags


def lengths(longest, count, unequal, step):
    """Returns the length of each of `count` rows: all `longest`, or spread evenly over an eighth of it to all of it,
    in an order that `step` mixes."""
    if not unequal or count < 2:
        return [longest] * count
    least = max(longest // 8, 1)
    return [least + (longest - least) * ((row * step) % count) // (count - 1) for row in range(count)]


def token(row, position, vocab_size):
    """Returns a made-up token id that is none of the first three, which are special in most vocabularies."""
    mixed = (row * 1_000_003 + position * 7_919 + 12_345) * 1_103_515_245 & 0x7FFF_FFFF
    return 3 + (mixed >> 8) % (vocab_size - 3)


def prompts(case, vocab_size):
    """Returns the prompts of a generation and how many tokens follow each; equal prompts where they are shared."""
    count = case["batch_size"]
    prompt_lengths = lengths(case["prompt_length"], count, case["unequal"], 5)
    rows = [[token(0 if case["shared"] else row, position, vocab_size) for position in range(length)]
            for row, length in enumerate(prompt_lengths)]
    return rows, lengths(case["max_new_tokens"], count, case["unequal"], 3)


def num_tokens(case):
    """Returns the tokens by which a case is measured: new ones where text is generated, all where a model learns."""
    if case["task"] == "generate":
        return sum(lengths(case["max_new_tokens"], case["batch_size"], case["unequal"], 3))
    per_row = case["prompt_length"] + (case["max_new_tokens"] if case["task"] == "grpo" else 0)
    return case["batch_size"] * per_row
