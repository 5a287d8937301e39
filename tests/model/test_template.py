"""Which checkpoints think, told from the files that come with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.facts import NANO, load_checkpoint
from model.template import asks_to_think
from schemas.errors import ConfigError
from tests.model.tiny import THINKING_TEMPLATE, Shape, make_tiny

PLAIN = THINKING_TEMPLATE.replace("assistant\\n<think>\\n", "assistant\\n")
"""Its history shows thoughts; its generation prompt opens none."""
TURN = "{{- '<|im_start|>assistant\\n' }}"
EMPTY = "{%- if enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}"


@pytest.mark.parametrize(
    ("template", "thinks"),
    [
        (THINKING_TEMPLATE, True),
        (THINKING_TEMPLATE.replace("\\n", "\n"), True),
        (PLAIN, False),
        ("", False),
        ("{{- '<|im_start|>assistant\\n<think>\\n' }}", False),
        (f"{{%- if add_generation_prompt %}}{TURN}{EMPTY}{{%- endif %}}{{%- endif %}}", False),
        (
            f"{{%- if add_generation_prompt %}}{TURN}{EMPTY}{{%- else %}}{{{{- '<think>\\n' }}}}",
            True,
        ),
    ],
)
def test_only_an_open_thought_in_the_generation_prompt_counts(
    tmp_path: Path, template: str, thinks: bool
) -> None:
    assert PLAIN != THINKING_TEMPLATE
    (tmp_path / "chat_template.jinja").write_text(template)
    assert asks_to_think(tmp_path) is thinks


def write(folder: Path, name: str, template: object) -> None:
    (folder / name).write_text(json.dumps({"chat_template": template}))


def test_the_template_may_be_in_three_files(tmp_path: Path) -> None:
    assert not asks_to_think(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "x"}')
    assert not asks_to_think(tmp_path)
    named = [{"name": "tools", "template": PLAIN}, {"name": "default", "template": "x"}]
    write(tmp_path, "tokenizer_config.json", named)
    assert not asks_to_think(tmp_path)
    write(
        tmp_path, "tokenizer_config.json", [named[0], {**named[1], "template": THINKING_TEMPLATE}]
    )
    assert asks_to_think(tmp_path)
    write(tmp_path, "tokenizer_config.json", THINKING_TEMPLATE)
    assert asks_to_think(tmp_path)
    write(tmp_path, "chat_template.json", PLAIN)
    assert not asks_to_think(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(THINKING_TEMPLATE)
    assert asks_to_think(tmp_path)


@pytest.mark.parametrize("name", ["chat_template.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", [b"{", b"[]", b'"x"', b"\xff"])
def test_broken_files_are_refused(tmp_path: Path, name: str, text: bytes) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ConfigError, match="download the checkpoint again"):
        asks_to_think(tmp_path)


def test_tokens_and_template_make_a_thinking_checkpoint(tmp_path: Path) -> None:
    thinking, plain = make_tiny(Shape(thinks=True)).folder, make_tiny().folder
    assert load_checkpoint(str(thinking)).counter.thinks
    assert not load_checkpoint(str(plain)).counter.thinks
    assert not load_checkpoint(str(NANO)).counter.thinks
    # A template alone, with a vocabulary that has no such tokens, does not.
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(plain / name)
    (tmp_path / "chat_template.jinja").write_text(THINKING_TEMPLATE)
    assert not load_checkpoint(str(tmp_path)).counter.thinks
