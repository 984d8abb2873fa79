"""The reading of usage by named behaviour: what counts as usage in the tail of an answer, and what does not."""

import time

import pytest

from _fastpath.usage import scan_usage

CHAT = b'{"id":"c","choices":[{"text":"hello"}],"usage":{"prompt_tokens":12,"total_tokens":17,"completion_tokens":5}}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CHAT, (12, 5, -1)),
        (b'{"x":"y", "usage": {"prompt_tokens": 12, "completion_tokens": 5}}', (12, 5, -1)),
        (b'{"x":"y","usage":{"completion_tokens":5,"prompt_tokens":12}}', (12, 5, -1)),
        (b'{"x":"y","usage":{"input_tokens":12,"output_tokens":5}}', (12, 5, -1)),
        (b'{"x":"y","usage":{"prompt_tokens":12,"total_tokens":12}}', (12, 0, -1)),
        (b'{"x":"y","usage":{"prompt_tokens":0,"completion_tokens":0}}', (0, 0, -1)),
        (
            b'{"x":"y","usage":{"prompt_tokens":12,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":8}}}',
            (12, 5, 8),
        ),
        (
            b'{"x":"y","usage":{"prompt_tokens_details":{"cached_tokens":8},"prompt_tokens":12,"completion_tokens":5}}',
            (12, 5, 8),
        ),
        (b'{"x":"y","usage":{"prompt_tokens":12,"prompt_tokens_details":null}}', (12, 0, -1)),
        (
            b'{"x":"y","usage":{"input_tokens":12,"input_tokens_details":{"cached_tokens":3},"output_tokens":4}}',
            (12, 4, 3),
        ),
        (b'data: {"a":1,"usage":null}\n\ndata: {"b":1,"usage":{"prompt_tokens":3}}\n\ndata: [DONE]\n\n', (3, 0, -1)),
        (b'data: {"a":1,"usage":{"prompt_tokens":1}}\n\ndata: {"a":1,"usage":{"prompt_tokens":2}}\n\n', (2, 0, -1)),
        (b'data: {"a":1,"usage":{"prompt_tokens":1}}\n\ndata: {"a":1,"usage":null}\n\n', (1, 0, -1)),
        (
            b'data: {"a":1,"usage":{"prompt_tokens":1}}\n\ndata: {"a":"\\"usage\\": {\\"prompt_tokens\\": 9}"}\n\n',
            (1, 0, -1),
        ),
        (rb'{"a":"say \"usage","usage":{"prompt_tokens":4}}', (4, 0, -1)),
        (rb'{"usage_":1,"usage":{"prompt_tokens":4},"a":"say \"usage"}', (4, 0, -1)),
        (b'{"x":"y","usage":{"prompt_tokens":4},"other":"usage"}', (4, 0, -1)),
        (b'{"x":"y","usage":null,"timing":{"prompt_tokens":9}}', None),
        (b'{"x":"y","usage":["prompt_tokens",9]}', None),
        (b"", None),
        (b'"usage"', None),
        (b'"usage":', None),
        (b'{"a":1,"usage":null}', None),
        (b'{"a":1,"usage":{}}', None),
        (b'{"a":1,"usage":5}', None),
        (b'{"a":1,"usage":{"total_tokens":5}}', None),
        (b'{"a":1,"usage":{"prompt_tokens":null}}', None),
        (b'{"a":1,"usage":{"prompt_tokens":"5"}}', None),
        (b'{"a":1,"usages":{"prompt_tokens":5}}', None),
        (b'{"a":1,"usage":{"prompt_tokens":', None),
        (b'{"a":1,"usage":{"prompt_tok', None),
        (b'{"prompt_tokens":5}', None),
        (b'{"error":{"message":"no usage here"}}', None),
    ],
)
def test_scan_usage(text: bytes, expected: tuple[int, int, int] | None) -> None:
    assert scan_usage(text) == expected


@pytest.mark.parametrize("before", [b"", b"{", b"{ ", b"data: {", b'{"object":"x",'], ids=repr)
def test_scan_usage_at_the_start(before: bytes) -> None:
    """The tail of an answer may begin anywhere."""
    assert scan_usage(before + b'"usage":{"prompt_tokens":3,"completion_tokens":4}}') == (3, 4, -1)


@pytest.mark.parametrize("space", [b" ", b"\n", b"\t", b"\r\n  "], ids=repr)
def test_scan_usage_with_any_space(space: bytes) -> None:
    text = b'{"id":"x","usage":{"prompt_tokens":' + space + b'3,"completion_tokens":' + space + b"4}}"
    assert scan_usage(text) == (3, 4, -1)


def test_scan_usage_with_absurd_numbers() -> None:
    found = scan_usage(b'{"id":"x","usage":{"prompt_tokens":' + b"9" * 100 + b"}}")
    assert found is not None
    assert 0 < found[0] < 2**63


def test_scan_usage_does_not_cut_numbers() -> None:
    """What lies too far behind is overlooked, but not misread."""
    found = []
    for padding in range(1900, 2100):
        found.append(
            scan_usage(b'{"usage":{"x":"' + b"x" * padding + b'","prompt_tokens":123456,"completion_tokens":789}}')
        )
    assert list(dict.fromkeys(found)) == [(123456, 789, -1), (123456, 0, -1), None]


def test_scan_usage_takes_linear_time() -> None:
    """An answer of engines that send ``"usage":null`` with every token, cut off before the real one."""
    small, large = b'"usage":null,' * 1000, b'"usage":null,' * 8000
    assert seconds_of_usage(large) < 8 * 4 * seconds_of_usage(small)


def seconds_of_usage(text: bytes) -> float:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        assert scan_usage(text) is None
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def test_only_bytes_are_read() -> None:
    for text in ("{}", bytearray(b"{}"), memoryview(b"{}"), None):
        with pytest.raises(TypeError):
            scan_usage(text)  # type: ignore[arg-type]
