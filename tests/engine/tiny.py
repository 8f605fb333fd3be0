"""Makes a tiny Llama, to be run by the engine's own Python: ``python tiny.py FOLDER``.

The folder holds what vLLM reads of a model but its weights, which ``--load-format=dummy`` makes up: the shape, a tokenizer
that is trained here and now, and a chat template.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # type: ignore[import-not-found]

VOCABULARY = 2048
CONTEXT = 4096
_STEMS = "answer bench chunk decode engine fetch graph hour issue judge kernel load model norm open prompt queue rate step token"
_ENDINGS = ("", "s", "ed", "ing", "er", "ly", "ness", "ful", "less", "ment")
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def make(folder: Path) -> None:
    """Write the model's files."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_text(), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "config.json", _shape())
    _write(folder / "tokenizer_config.json", _tokenizer_config())


def _text() -> list[str]:
    """Enough different words to fill the vocabulary."""
    words = [stem + ending for stem in _STEMS.split() for ending in _ENDINGS]
    return [
        " ".join(words[(7 * line + 13 * place) % len(words)] + 2 * chr(97 + line * place % 26) for place in range(40))
        for line in range(400)
    ]


def _shape() -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


def _tokenizer_config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": CONTEXT,
        "chat_template": _CHAT_TEMPLATE,
    }


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
