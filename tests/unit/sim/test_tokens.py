"""The tokenizer and the writer agree with each other and with themselves."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.sim.tokens import WORDS, Writer, chain_keys, encode, encode_chat

VOCAB = 128_256


@given(st.text(max_size=200))
def test_four_bytes_are_a_token(text: str) -> None:
    ids = encode(text, VOCAB)
    assert len(ids) == -(-len(text.encode("utf-8", "surrogatepass")) // 4)
    assert all(0 <= token < VOCAB for token in ids)


@given(st.lists(st.integers(0, VOCAB - 1), max_size=64), st.integers(1, 200))
def test_an_answer_sent_back_has_the_tokens_it_was_written_in(prompt: list[int], n_tokens: int) -> None:
    writer = Writer(array("I", prompt), 0, VOCAB)
    assert len(encode(writer.text(n_tokens), VOCAB)) == n_tokens
    assert encode(writer.text(n_tokens), VOCAB) == writer.ids(n_tokens)


def test_answers_differ_by_prompt_and_seed_only() -> None:
    prompt, other = array("I", [1, 2, 3]), array("I", [1, 2, 4])
    text = Writer(prompt, 0, VOCAB).text(20)
    assert Writer(prompt, 0, VOCAB).text(20) == text
    assert Writer(other, 0, VOCAB).text(20) != text
    assert Writer(prompt, 1, VOCAB).text(20) != text


def test_an_answer_uses_every_word_before_it_repeats_one() -> None:
    for seed in range(50):
        writer = Writer(array("I", [seed]), seed, VOCAB)
        assert len({writer.word(index) for index in range(len(WORDS))}) == len(WORDS)


def test_natural_lengths_have_the_median_that_was_asked_for() -> None:
    lengths = sorted(Writer(array("I", [n]), 0, VOCAB).natural_length(200) for n in range(2001))
    assert 180 < lengths[1000] < 220
    assert lengths[0] >= 1
    assert lengths[-1] > 2 * lengths[1000]


def test_keys_are_chained() -> None:
    one, other = array("I", range(64)), array("I", [9, *range(1, 64)])
    assert chain_keys(one, 16)[:2] == chain_keys(one[:40], 16)
    assert not set(chain_keys(one, 16)) & set(chain_keys(other, 16))
    assert chain_keys(one[:15], 16) == []


def test_a_longer_chat_begins_with_the_shorter_one() -> None:
    first = encode_chat([("system", "You are kind."), ("user", "Hello")], VOCAB)
    longer = encode_chat([("system", "You are kind."), ("user", "Hello"), ("assistant", "Hi"), ("user", "?")], VOCAB)
    assert longer[: len(first)] == first
