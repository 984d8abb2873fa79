"""OpenAI's objects for one answer: chat, completions and responses, whole and in the events of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from simulator.bodies import Work
from simulator.engine import Request
from simulator.text import tokenize, words


class Answer(Protocol):
    """How one operation tells what the engine generates. ``requests`` are the engine's, one a choice."""

    def begin(self) -> list[bytes]:
        """Events before the first token."""

    def event(self, choice: int, request: Request) -> bytes:
        """The event of the token that a choice just got."""

    def end(self, requests: Sequence[Request]) -> list[bytes]:
        """Events after the last token."""

    def take(self, choice: int, request: Request) -> None:
        """The token that a choice just got, for an answer that is not streamed."""

    def whole(self, requests: Sequence[Request]) -> dict[str, Any]:
        """An answer that is not streamed."""


class Texts:
    """The canned words of every choice."""

    def __init__(self, work: Work) -> None:
        self._words = [words(sum(prompt[-64:]) + choice) for prompt in work.prompts for choice in range(work.choices)]
        self.so_far = [""] * work.answers

    def next_word(self, choice: int, request: Request) -> str:
        """The text of the token that was just generated; its ids go into the request, so that its blocks can be reused."""
        word = next(self._words[choice])
        request.output += tokenize(word)[:1]
        self.so_far[choice] += word
        return word


class Choices:
    """Chat and completions: an answer of choices."""

    def __init__(self, body: dict[str, Any], work: Work, is_chat: bool) -> None:
        self._work = work
        self._texts = Texts(work)
        self._sent = [0] * work.answers
        self._is_chat = is_chat
        identity = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._head = {"id": identity, "created": int(time.time()), "model": body["model"]}

    def begin(self) -> list[bytes]:
        """Nothing stands before the first token."""
        return []

    def event(self, choice: int, request: Request) -> bytes:
        """One chunk, with the choice's index."""
        word = self._texts.next_word(choice, request)
        self._sent[choice] += 1
        finish = "length" if self._sent[choice] == request.output_length else None
        if not self._is_chat:
            return self._chunk([{"index": choice, "text": word, "logprobs": None, "finish_reason": finish}])
        delta = {"role": "assistant", "content": word} if self._sent[choice] == 1 else {"content": word}
        return self._chunk([{"index": choice, "delta": delta, "finish_reason": finish}])

    def end(self, requests: Sequence[Request]) -> list[bytes]:
        """Usage for who asked for it, and the end mark."""
        counts = [self._chunk([], usage=self._usage(requests))] if self._work.wants_usage else []
        return [*counts, b"data: [DONE]\n\n"]

    def take(self, choice: int, request: Request) -> None:
        """One word more."""
        self._texts.next_word(choice, request)

    def whole(self, requests: Sequence[Request]) -> dict[str, Any]:
        """All choices, in order."""
        choices: list[dict[str, Any]] = []
        for index, text in enumerate(self._texts.so_far):
            content = {"message": {"role": "assistant", "content": text}} if self._is_chat else {"text": text}
            choices.append({"index": index, "finish_reason": "length", "logprobs": None, **content})
        kind = "chat.completion" if self._is_chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices, "usage": self._usage(requests)}

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        kind = "chat.completion.chunk" if self._is_chat else "text_completion"
        return encode({**self._head, "object": kind, "choices": choices, **more})

    def _usage(self, requests: Sequence[Request]) -> dict[str, Any]:
        prompt, cached, generated = count(requests, self._work.choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


class Response:
    """The responses API: one message, and events that each say their type and their number."""

    def __init__(self, body: dict[str, Any], work: Work) -> None:
        self._body = body
        self._texts = Texts(work)
        self._created = int(time.time())
        self._identity, self._message = f"resp_{uuid.uuid4().hex}", f"msg_{uuid.uuid4().hex}"
        self._number = 0

    def begin(self) -> list[bytes]:
        """The response, its one message, and the message's one part, all of them empty."""
        empty = self._response("in_progress", [], None)
        return [
            self._event("response.created", response=empty),
            self._event("response.in_progress", response=empty),
            self._event("response.output_item.added", output_index=0, item=self._item("in_progress", [])),
            self._event("response.content_part.added", **self._place, part=self._part("")),
        ]

    def event(self, choice: int, request: Request) -> bytes:
        """One piece of text."""
        word = self._texts.next_word(choice, request)
        return self._event("response.output_text.delta", **self._place, delta=word, logprobs=[])

    def end(self, requests: Sequence[Request]) -> list[bytes]:
        """Everything once more as it is now, and the whole response with its usage."""
        text = self._texts.so_far[0]
        item = self._item("completed", [self._part(text)])
        return [
            self._event("response.output_text.done", **self._place, text=text, logprobs=[]),
            self._event("response.content_part.done", **self._place, part=self._part(text)),
            self._event("response.output_item.done", output_index=0, item=item),
            self._event("response.completed", response=self.whole(requests)),
        ]

    def take(self, choice: int, request: Request) -> None:
        """One word more."""
        self._texts.next_word(choice, request)

    def whole(self, requests: Sequence[Request]) -> dict[str, Any]:
        """The response with its message and its usage."""
        prompt, cached, generated = count(requests, 1)
        usage = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": generated,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + generated,
        }
        message = self._item("completed", [self._part(self._texts.so_far[0])])
        return self._response("completed", [message], usage)

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._message, "output_index": 0, "content_index": 0}

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._message, "type": "message", "role": "assistant", "status": status, "content": content}

    def _response(self, status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "id": self._identity,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "model": self._body["model"],
            "output": output,
            "usage": usage,
            "error": None,
            "incomplete_details": None,
            "instructions": self._body.get("instructions"),
            "metadata": self._body.get("metadata") or {},
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
        }

    def _event(self, kind: str, **content: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return f"event: {kind}\n".encode() + encode({"type": kind, "sequence_number": number, **content})


def count(requests: Sequence[Request], choices: int) -> tuple[int, int, int]:
    """Tokens of the prompts, each counted once, how many of them were cached, and those generated for all choices."""
    firsts = requests[::choices]
    return (
        sum(one.prompt_length for one in firsts),
        sum(one.cached for one in firsts),
        sum(one.generated for one in requests),
    )


def encode(content: dict[str, Any]) -> bytes:
    """The data of one event."""
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
