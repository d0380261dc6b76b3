#!/usr/bin/env python3
"""Writes a Llama folder with random weights and a tokenizer of made-up words: make_model.py OUT

29 million parameters, 4 layers, vocabulary 32,000, tied embeddings: small enough to measure in a minute.
"""
import sys

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCAB_SIZE = 32_000


def main(out):
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=512, intermediate_size=1536, num_hidden_layers=4, num_attention_heads=8,
                         num_key_value_heads=4, vocab_size=VOCAB_SIZE, max_position_embeddings=2048, tie_word_embeddings=True,
                         bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(out)
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{idx}": idx for idx in range(3, VOCAB_SIZE)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="w3",
                            padding_side="left").save_pretrained(out)
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters in {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])
