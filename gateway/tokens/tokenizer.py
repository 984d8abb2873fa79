"""Token ids of prompts, by the model's own tokenizer and chat template."""

from __future__ import annotations

import json
import re
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from gateway.tokens.conversation import Unsupported, conversation, named_template, tools, variables
from gateway.tokens.question import CHAT, COMPLETIONS, LARGEST_ID
from gateway.tokens.template import ChatTemplate

_SPECIAL = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
    "additional_special_tokens",
)


class UnusableFolder(Exception):
    """What is missing or wrong in a tokenizer's folder."""


class SegmentCache:
    """Ids of segments, the last used ones, bounded by characters; of all threads."""

    def __init__(self, characters: int) -> None:
        self._most = characters
        self._held = 0
        self._ids: OrderedDict[tuple[str, str], array[int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, apart: str, segment: str) -> array[int] | None:
        """The ids, if they are there: what others sent nobody shall tell by the time it takes, so those that are apart share nothing."""
        with self._lock:
            found = self._ids.get((apart, segment))
            if found is not None:
                self._ids.move_to_end((apart, segment))
            return found

    def put(self, apart: str, segment: str, ids: array[int]) -> None:
        """Remember them; the least lately used make room."""
        with self._lock:
            if (apart, segment) in self._ids or len(segment) > self._most:
                return
            self._ids[apart, segment] = ids
            self._held += len(segment)
            while self._held > self._most:
                self._held -= len(self._ids.popitem(last=False)[0][1])


class PromptTokenizer:
    """Tokenizer and chat template of one folder. Methods may be called from several threads."""

    def __init__(self, folder: Path, cache_characters: int) -> None:
        """Raises UnusableFolder."""
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing narrower
            raise UnusableFolder(f"{folder}/tokenizer.json: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        configuration = _configuration(folder)
        special = {name: _content(configuration[name]) for name in _SPECIAL if configuration.get(name) is not None}
        self._templates = _templates(folder, configuration, special)
        added = list(self._tokenizer.get_added_tokens_decoder().values())
        self._added = _pattern(added)
        self._boundaries = frozenset(one.content for one in added if _is_boundary(one))
        self._cache = SegmentCache(cache_characters)

    def prompt(self, path: str, body: Mapping[str, Any], apart: str = "") -> array[int]:
        """The ids that the engine makes of a request. Raises Unsupported, and what a template raises for what it does not take."""
        if path == CHAT:
            return self._chat(body, apart)
        if path == COMPLETIONS:
            return self._completion(body)
        raise Unsupported("operation")

    def _chat(self, body: Mapping[str, Any], apart: str) -> array[int]:
        given = tools(body)
        template = self._templates[given is not None]
        if template is None:
            raise Unsupported("chat_template")
        text = template.render(conversation(body, template.wants_parts), given, variables(body))
        if body.get("add_special_tokens"):
            return array("I", self._tokenizer.encode(text, add_special_tokens=True).ids)
        return self._encode(text, apart)

    def _completion(self, body: Mapping[str, Any]) -> array[int]:
        prompt = body.get("prompt")
        if body.get("truncate_prompt_tokens") is not None or body.get("prompt_embeds") is not None:
            raise Unsupported("truncate_prompt_tokens")
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
            prompt = prompt[0]
        if isinstance(prompt, str):
            wants_special = body.get("add_special_tokens")
            is_plain = wants_special is not None and not wants_special
            return array("I", self._tokenizer.encode(prompt, add_special_tokens=not is_plain).ids)
        if isinstance(prompt, list) and all(type(one) is int and 0 <= one <= LARGEST_ID for one in prompt):
            return array("I", prompt)
        raise Unsupported("prompt")

    def _encode(self, text: str, apart: str) -> array[int]:
        """Without the tokens that a post-processor adds. The text is cut where special tokens stand, each segment is made once."""
        found = array("I")
        for segment in self._segments(text):
            ids = self._cache.get(apart, segment)
            if ids is None:
                ids = array("I", self._tokenizer.encode(segment, add_special_tokens=False).ids)
                self._cache.put(apart, segment, ids)
            found.extend(ids)
        return found

    def _segments(self, text: str) -> Iterable[str]:
        starts = [at.start() for at in self._added.finditer(text) if at.group() in self._boundaries]
        ends = [*starts, len(text)]
        return [text[start:end] for start, end in zip([0, *starts], ends, strict=True) if end > start]


def _pattern(added: Iterable[AddedToken]) -> re.Pattern[str]:
    """Finds added tokens as the tokenizer does: from the left, the longest first. Without groups, which would make it slow."""
    contents = sorted((one.content for one in added if not one.normalized), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, contents)) or r"(?!)")


def _is_boundary(token: AddedToken) -> bool:
    """Nothing goes across a special token that takes no spaces with it: before it and from it on, text is tokenised apart."""
    return bool(token.special and not (token.normalized or token.lstrip or token.rstrip or token.single_word))


def _configuration(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "tokenizer_config.json").read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UnusableFolder(f"{folder}/tokenizer_config.json: {error}") from error
    return found if isinstance(found, dict) else {}


def _content(token: Any) -> Any:
    """Configurations write tokens as text or as an object."""
    return token.get("content") if isinstance(token, dict) else token


def _templates(
    folder: Path, configuration: Mapping[str, Any], special: Mapping[str, Any]
) -> tuple[ChatTemplate | None, ChatTemplate | None]:
    """The template without tools, and the one with."""
    try:
        given: Any = (folder / "chat_template.jinja").read_text()
    except FileNotFoundError:
        given = configuration.get("chat_template")
    except (OSError, ValueError) as error:
        raise UnusableFolder(f"{folder}/chat_template.jinja: {error}") from error
    plain, with_tools = (named_template(given, has_tools) for has_tools in (False, True))
    try:
        made = {text: ChatTemplate(text, special) for text in {plain, with_tools} if text is not None}
    except Exception as error:  # a template can be wrong in any way
        raise UnusableFolder(f"{folder}: the chat template cannot be read: {error}") from error
    return made.get(plain or ""), made.get(with_tools or "")
