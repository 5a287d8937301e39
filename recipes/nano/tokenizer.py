"""The tokenizer. Byte-level, so any text encodes; numbers in right-aligned pieces of two digits, so
that a time is few tokens and 123.5 shares its last piece with 23.5; the wording of questions and
answers, which never changes, one token a phrase.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline.lettering import ALPHABET
from pipeline.needles import ASKS, NONE, Kind
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

BEFORE, TO = "\nThe video runs from ", " to "
FIND = " seconds. Find every time span in which this is visible:"
FIND_CLOSE = (
    ". Answer in JSON with the start and end of each span in seconds, in order of time, "
    "or an empty list."
)
EVENTS, SPAN_START, SPAN_END = '{"events": [', '"start": ', ', "end": '
ANSWER, CLOSE = '{"answer": "', '"}'
_AFTER = " Answer in JSON."


def _split(kind: Kind) -> tuple[str, str]:
    """What stands before and behind the one thing that is filled in."""
    text = ASKS[kind]
    opening = text.index("{")
    closing = text.index("}")
    return " seconds. " + text[:opening], text[closing + 1 :] + _AFTER


OPENINGS: dict[Kind, str] = {kind: _split(kind)[0] for kind in ASKS}
CLOSINGS: dict[Kind, str] = {kind: _split(kind)[1] for kind in ASKS}
_FIND_PHRASES = (BEFORE, FIND, FIND_CLOSE, EVENTS, SPAN_START, SPAN_END)
_ASK_PHRASES = (TO, *OPENINGS.values(), *CLOSINGS.values(), ANSWER, CLOSE, NONE)
PHRASES = tuple(dict.fromkeys(_FIND_PHRASES + _ASK_PHRASES))
"""In the order of their ids: words that never change teach nothing."""


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


def build() -> Tokenizer:
    """Train the tokenizer; the corpus is fixed, so the result is too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(PHRASES),
        special_tokens=[AddedToken(text, special=True) for text in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in PHRASES])
    for letter in ALPHABET:
        if len(tokenizer.encode(letter, add_special_tokens=False).ids) != 1:
            raise ValueError(f"letter {letter} should be one token")
    return tokenizer


def save(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    build().save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": _TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
