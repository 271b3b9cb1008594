"""Generated text: what transformers would write, and the same again for the same seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer

from antiphon.backend.model.generate import Sampler, generate
from antiphon.backend.model.huggingface import pretrained_files
from antiphon.backend.model.initial import initialise
from antiphon.backend.model.llama import Transformer
from antiphon.backend.text.tokenizer import train_tokenizer
from antiphon.errors import JobError
from antiphon.spec.model import Model

MODEL = Model(
    layers=2,
    hidden=32,
    heads=4,
    kv_heads=2,
    head_dim=8,
    feed_forward=48,
    vocabulary=300,
    context_length=64,
)
PROMPT = "It was a dark and"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(iter(["It was a dark and stormy night; the rain fell in torrents"]), 300)


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    transformer = Transformer(MODEL)
    initialise(transformer, MODEL, seed=0)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.mul_(8.0)  # so that the likeliest token changes from place to place
    return transformer


def test_greedy_text_is_that_of_transformers(
    transformer: Transformer, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    files = pretrained_files(MODEL, transformer.state_dict(), tokenizer.to_str().encode())
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    given = torch.tensor([tokenizer.encode(PROMPT).ids])
    made = other.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=40, do_sample=False
    )[0, given.shape[1] :]
    assert len(set(made.tolist())) > 5
    ours = generate(transformer, tokenizer, PROMPT, max_tokens=40)
    assert ours == tokenizer.decode(made.tolist())


def test_the_same_seed_writes_the_same_and_another_does_not(
    transformer: Transformer, tokenizer: Tokenizer
) -> None:
    def text(seed: int, top_k: int | None = None) -> str:
        return generate(transformer, tokenizer, PROMPT, 30, temperature=0.8, top_k=top_k, seed=seed)

    torch.manual_seed(1)
    first = text(seed=7)
    torch.manual_seed(2)
    assert text(seed=7) == first
    assert text(seed=8) != first
    assert text(seed=7, top_k=1) == generate(transformer, tokenizer, PROMPT, 30)


def test_no_token_outside_the_top_k_is_drawn() -> None:
    logits = torch.tensor([0.1, 0.4, 0.3, 0.0, 0.2])
    for top_k, expected in ((2, {1, 2}), (3, {1, 2, 4}), (9, {0, 1, 2, 3, 4}), (None, {*range(5)})):
        sampler = Sampler(temperature=10.0, top_k=top_k, seed=0)
        assert {sampler.choose(logits) for _ in range(300)} == expected


def test_a_lower_temperature_keeps_closer_to_the_likeliest(
    transformer: Transformer, tokenizer: Tokenizer
) -> None:
    likeliest = generate(transformer, tokenizer, PROMPT, 1)

    def hits(temperature: float) -> int:
        drawn = (
            generate(transformer, tokenizer, PROMPT, 1, temperature=temperature, seed=seed)
            for seed in range(40)
        )
        return sum(text == likeliest for text in drawn)

    assert hits(0.01) == 40
    assert hits(5.0) < 40


def test_it_ends_where_the_text_ends(transformer: Transformer, tokenizer: Tokenizer) -> None:
    given = tokenizer.encode(PROMPT).ids
    made: list[int] = []
    with torch.no_grad():
        for _ in range(12):
            made.append(int(transformer(torch.tensor([given + made]))[0, -1].argmax()))
    for end in set(made):
        expected = tokenizer.decode(made[: made.index(end)])
        assert generate(transformer, tokenizer, PROMPT, 12, end=end) == expected


def test_it_keeps_within_the_context_of_the_model(
    transformer: Transformer, tokenizer: Tokenizer
) -> None:
    given = len(tokenizer.encode(PROMPT).ids)
    made = generate(transformer, tokenizer, PROMPT, 1000, end=-1)
    longest = generate(transformer, tokenizer, PROMPT, MODEL.context_length - given, end=-1)
    assert made == longest
    with pytest.raises(JobError, match="fill the context of 64"):
        generate(transformer, tokenizer, "x" * 64, 1)  # a token each
    assert generate(transformer, tokenizer, "x" * 63, 1, end=-1)


def test_an_empty_prompt_begins_a_text(transformer: Transformer, tokenizer: Tokenizer) -> None:
    assert generate(transformer, tokenizer, "", 5)


def test_a_prompt_of_no_tokens_to_make_makes_none(
    transformer: Transformer, tokenizer: Tokenizer
) -> None:
    assert generate(transformer, tokenizer, PROMPT, 0) == ""
