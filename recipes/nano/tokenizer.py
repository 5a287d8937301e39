"""Step 1: the tokenizer. Byte-level, so any text encodes; numbers in right-aligned pieces of two
digits, so that a time is few tokens and 123.5 shares its last piece with 23.5.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline.scenes import COLOURS, SHAPES
from recipes.nano.shape import CONTEXT, SPECIALS, VOCAB

# In order: the tail of a timestamp, numbers, words with their space, every other character alone.
_PIECES = r" seconds>|\d{1,2}(?=(?:\d\d)*(?!\d))| ?\p{L}+|[^\s\p{L}\d]|\s"
_WORDS = (
    "user assistant The video runs from to seconds Find every time span in which this is visible "
    "Answer in JSON with the start and end of each in order of or an empty list events start end a "
    "an the when on screen is shown answer Summarise what that there are something thing it and "
    "while before after one two three no yes for give also description kind title code text read "
    "says how many first last long between during appears vanishes moves left right top bottom"
).split()

_TEMPLATE = """{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}\
{% if part.type == 'video' %}<|video_pad|>{% elif part.type == 'image' %}<|vision_start|>\
<|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


PHRASES = (
    "\nThe video runs from ",
    " seconds. Find every time span in which this is visible:",
    ". Answer in JSON with the start and end of each span in seconds, in order of time, "
    "or an empty list.",
    '{"events": [',
    '"start": ',
    ', "end": ',
)
"""Fixed wording of prompts and answers, one token each: nano's contexts are short of tokens, and
words that never change teach nothing."""


def _corpus() -> Iterator[str]:
    for number in range(100):
        for _ in range(60):
            yield f"{number:02d} {number}"
    words = [*_WORDS, *COLOURS, *SHAPES]
    for word in words:
        for _ in range(200):
            yield f" {word}"
        for _ in range(60):
            yield word
    for _ in range(400):
        yield "<12.5 seconds>"


def build(more: tuple[str, ...] = ()) -> Tokenizer:
    """Train the tokenizer; the corpus is fixed, so the result is too. `more` phrases become tokens,
    and the vocabulary stays as large as it is."""
    phrases = (*PHRASES, *more)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(phrases),
        special_tokens=[AddedToken(text, special=True) for text in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in phrases])
    return tokenizer


def save(folder: Path, tokenizer: Tokenizer | None = None, context: int = CONTEXT) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (tokenizer or build()).save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "chat_template": _TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
