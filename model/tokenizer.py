"""tokenizer.json ↔ text and ids. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from schemas.errors import ConfigError


class TextTokenizer:
    """The checkpoint's own tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tokenizer.json"
        if not self.path.is_file():
            raise ConfigError(
                f"{folder} has no tokenizer.json; download the checkpoint with its tokenizer."
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(self.path))
        except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
            raise ConfigError(
                f"{self.path} cannot be read ({error}); download the tokenizer again."
            ) from None
        self._tokenizer.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; nothing is added before or behind. A special token's name in it stays a
        run of letters, so that a question cannot end its own turn or claim frames."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`, special tokens included."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def token_id(self, token: str) -> int:
        """Id of one special token. Raises ConfigError where the vocabulary lacks it."""
        number = self.find_token(token)
        if number is None:
            raise ConfigError(
                f"{self.path} does not know {token!r}; it is not a Qwen3-VL tokenizer."
            )
        return number

    def find_token(self, token: str) -> int | None:
        """Id of what is one token by name, None where the vocabulary lacks it."""
        number = self._tokenizer.token_to_id(token)
        return None if number is None else int(number)

    def json(self) -> str:
        """The tokenizer as its own file's text."""
        return self.path.read_text(encoding="utf-8")
