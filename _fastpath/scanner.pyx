cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int8_t
from libc.string cimport memchr, memcmp, memset
from _fastpath.grammar cimport (
    BYTE_ORDER_MARK, DEEPEST, DUPLICATE, ENDS_EARLY, NOT_AN_OBJECT, TOO_MANY_FORBIDDEN, TOO_WIDE, TRAILING, State, is_digit,
    json_character, json_name, json_space, json_value, refuse, unescaped,
)
from _fastpath.text cimport digits_and_space, use_avx2

from json import loads

_ERRORS = (
    ("", ""),
    ("invalid_json", "the body must be a JSON object"),
    ("invalid_json", "the body is not valid JSON"),
    ("invalid_json", "the body ends in the middle of its JSON"),
    ("invalid_json", "there is text after the JSON object"),
    ("invalid_json", "the body is not valid UTF-8"),
    ("invalid_json", "a string has an invalid escape"),
    ("invalid_json", "a string has half of a surrogate pair"),
    ("invalid_json", "a string has a control character that is not escaped"),
    ("invalid_json", "a number is not valid JSON"),
    ("json_too_deep", "the JSON is nested too deeply"),
    ("json_too_wide", "an object or array has too many members"),
    ("json_number_too_long", "a number has too many digits"),
    ("duplicate_parameter", "the member stands twice"),
    ("json_too_wide", "the body has more than 32 members that the gateway takes out"),
    ("invalid_json", "the body starts with a byte order mark"),
)

_NAMES = (
    "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "user",
    "prompt_cache_key", "messages", "prompt", "input", "tools", "system", "instructions", "query", "documents",
)
POSITIONS = {name: position for position, name in enumerate(_NAMES)}

cdef int64_t LARGEST_WHOLE = <int64_t>1 << 62

cdef const char* _names[MEMBERS]
_names[:] = [
    b"model", b"stream", b"stream_options", b"max_tokens", b"max_completion_tokens", b"max_output_tokens", b"n", b"user",
    b"prompt_cache_key", b"messages", b"prompt", b"input", b"tools", b"system", b"instructions", b"query", b"documents",
]
# By a name's length: the first member whose name is as long, and for each member the next one; -1 ends it.
cdef int8_t _first[LONGEST_NAME + 1]
cdef int8_t _next[MEMBERS]
memset(_first, -1, sizeof(_first))
cdef int _position
for _position in reversed(range(MEMBERS)):
    _next[_position] = _first[len(_NAMES[_position])]
    _first[len(_NAMES[_position])] = _position

use_avx2(True)


# For tests: one way through a text must find what the other finds.
def _use_avx2(bint wanted):
    return use_avx2(wanted)


class ScanError(Exception):
    def __init__(self, code, field, position, message):
        super().__init__(message)
        self.code = code
        self.field = field
        self.position = position
        self.message = message


@cython.final
cdef class Forbidden:
    def __init__(self, names):
        cdef str name
        self.names = tuple(dict.fromkeys(names))
        self._entries = b""
        memset(&self._rules, 0, sizeof(Rules))
        for name in self.names:
            if name is None:
                raise TypeError("a forbidden name must be a string")
            self._add(name, name.removesuffix("*"), name.endswith("*"))
        self._rules.entries = <const uint8_t*>PyBytes_AS_STRING(self._entries)
        self._rules.size = PyBytes_GET_SIZE(self._entries)

    cdef int _add(self, str name, str stem, bint prefix) except -1:
        cdef bytes encoded = stem.encode()
        cdef size_t length = PyBytes_GET_SIZE(encoded)
        for known in _NAMES:
            if known == name:
                raise ValueError(f"`{name}` cannot be forbidden: the gateway reads it")
            if prefix and known.startswith(stem):
                raise ValueError(f"`{name}` cannot be forbidden: `{known}` is among these names, and the gateway reads it")
        if length == 0:
            raise ValueError("a forbidden name is empty")
        if length > LONGEST_NAME:
            raise ValueError(f"`{name[:20]}...` cannot be forbidden: the name has more than {LONGEST_NAME} bytes")
        self._entries += bytes((length, prefix)) + encoded
        self._rules.lengths[encoded[0]] |= _lengths(length, prefix)
        return 0


# The lengths of the names that an entry covers, as bits.
cdef inline uint64_t _lengths(size_t length, bint prefix) noexcept nogil:
    cdef uint64_t bit = <uint64_t>1 << min(length, <size_t>63)
    return ~(bit - 1) if prefix else bit


cdef bint _is_forbidden(const Rules* rules, const uint8_t* name, size_t length) noexcept nogil:
    cdef size_t at = 0, size
    if length == 0 or rules.lengths[name[0]] & _lengths(length, False) == 0:
        return False
    while at < rules.size:
        size = rules.entries[at]
        if (size == length or (rules.entries[at + 1] and size < length)) and memcmp(rules.entries + at + 2, name, size) == 0:
            return True
        at += 2 + size
    return False


cdef inline int _member(const uint8_t* name, size_t length) noexcept nogil:
    cdef int i
    if length > LONGEST_NAME:
        return -1
    i = _first[length]
    while i >= 0 and (_names[i][0] != <char>name[0] or memcmp(name, _names[i], length) != 0):
        i = _next[i]
    return i


# The name of a member, decoded into `room` when it has escapes. Where its value begins; 0: refused.
cdef inline size_t _name(State* state, size_t key, uint8_t* room, const uint8_t** name, size_t* length) noexcept nogil:
    cdef size_t start, end = 0
    state.escaped = False
    start = json_name(state, key, &end)
    if start == 0:
        return 0
    name[0] = state.text + key + 1
    length[0] = end - key - 1
    if state.escaped:
        length[0] = unescaped(name[0], length[0], room, LONGEST_NAME)
        name[0] = room
    return start


# The body: one object, whose members are looked at. How many of them are forbidden; -1: refused.
cdef int _body(State* state, Span* spans, const Rules* rules, Cut* cuts) noexcept nogil:
    cdef uint8_t room[LONGEST_NAME]
    cdef const uint8_t* name = NULL
    cdef size_t at, key, start, length = 0, count = 0
    cdef int member, forbidden = 0
    cdef bint cut
    if state.length >= 3 and memcmp(state.text, b"\xef\xbb\xbf", 3) == 0:
        return _refuse(state, BYTE_ORDER_MARK, 0)
    at = json_space(state, 0)
    if at >= state.length:
        return _refuse(state, ENDS_EARLY, at)
    if state.text[at] != c'{':
        return _refuse(state, NOT_AN_OBJECT, at)
    at = json_space(state, at + 1)
    state.depth = 1
    while count > 0 or at >= state.length or state.text[at] != c'}':
        count += 1
        if count > state.limits.members:
            return _refuse(state, TOO_WIDE, at)
        key = at
        start = _name(state, key, room, &name, &length)
        if start == 0:
            return -1
        member = _member(name, length)
        if member >= 0 and spans[member].end != 0:
            state.error_member = member
            return _refuse(state, DUPLICATE, key)
        cut = rules != NULL and member < 0 and _is_forbidden(rules, name, length)
        if cut and forbidden == MOST_FORBIDDEN:
            return _refuse(state, TOO_MANY_FORBIDDEN, key)
        at = json_value(state, start)
        if at == 0:
            if state.error != ENDS_EARLY:
                state.error_member = member
            return -1
        if member >= 0:
            spans[member] = Span(key, start, at, state.items)
        elif cut:
            cuts[forbidden] = Cut(key, at)
            forbidden += 1
        at = json_space(state, at)
        if at < state.length and state.text[at] == c'}':
            break
        at = json_character(state, at, c',')
        if at == 0:
            return -1
        at = json_space(state, at)
    at = json_space(state, at + 1)
    return forbidden if at == state.length else _refuse(state, TRAILING, at)


cdef inline int _refuse(State* state, int error, size_t at) noexcept nogil:
    refuse(state, error, at)
    return -1


cdef inline bint _is_null(const State* state, const Span* span) noexcept nogil:
    return span.end == 0 or state.text[span.start] == c'n'


# A non-negative whole number, -1 when it is none or beyond 2^62.
cdef int64_t _whole(const State* state, const Span* span) noexcept nogil:
    cdef int64_t value = 0
    cdef size_t i
    if span.end - span.start > 18:
        return -1
    for i in range(span.start, span.end):
        if not is_digit(state.text[i]):
            return -1
        value = value * 10 + (state.text[i] - c'0')
    return value


# The text between two quotes, escapes decoded.
cdef str _text(const State* state, const Span* span):
    cdef const char* text = <const char*>state.text
    if memchr(text + span.start, c'\\', span.end - span.start) != NULL:
        return loads(text[span.start:span.end])
    return PyUnicode_DecodeUTF8(text + span.start + 1, span.end - span.start - 2, NULL)


cdef int _raise(const State* state) except -1:
    code, message = _ERRORS[state.error]
    field = _NAMES[state.error_member] if state.error_member >= 0 else None
    if field is not None and state.error == DUPLICATE:
        message = f"`{field}` stands twice"
    elif field is not None:
        message = f"{message} (in `{field}`)"
    raise ScanError(code, field, state.error_at, f"{message}, at byte {state.error_at}")


cdef int _wrong_type(int member, size_t at, str wanted) except -1:
    raise ScanError("invalid_type", _NAMES[member], at, f"`{_NAMES[member]}` must be {wanted}")


@cython.final
@cython.freelist(64)
cdef class Scan:
    def span(self, str member not None):
        cdef Span span = self._spans[<int>POSITIONS[member]]
        return (span.start, span.end) if span.end != 0 else None

    def has(self, str member not None):
        return self._spans[<int>POSITIONS[member]].end != 0


cdef str _read_text(const State* state, const Span* spans, int member, size_t longest):
    cdef const Span* span = &spans[member]
    if _is_null(state, span):
        return None
    if state.text[span.start] != c'"':
        _wrong_type(member, span.start, "a string")
    if span.end - span.start > longest:
        raise ScanError("invalid_value", _NAMES[member], span.start, f"`{_NAMES[member]}` is longer than {longest} bytes")
    return _text(state, span)


cdef int _read_boolean(const State* state, const Span* spans, int member) except -1:
    cdef const Span* span = &spans[member]
    if _is_null(state, span) or state.text[span.start] == c'f':
        return 0
    if state.text[span.start] != c't':
        _wrong_type(member, span.start, "true or false")
    return 1


cdef int64_t _read_whole(const State* state, const Span* spans, int member, int64_t absent) except? -2:
    cdef const Span* span = &spans[member]
    if _is_null(state, span):
        return absent
    if not is_digit(state.text[span.start]):
        _wrong_type(member, span.start, "a whole number, 0 or above")
    cdef int64_t value = _whole(state, span)
    if value >= 0:
        return value
    # 1e3 and 10.0 are whole to an engine as well; what is not, it refuses itself
    number = float((<const char*>state.text)[span.start:span.end])
    if not number.is_integer():
        return absent if number < LARGEST_WHOLE else LARGEST_WHOLE
    return min(int(number), LARGEST_WHOLE)


# The smaller of two limits of tokens, -1 for one that is absent.
cdef int64_t _smaller(int64_t one, int64_t other) noexcept nogil:
    return other if one < 0 or 0 <= other < one else one


# Note where `stream_options.include_usage` lies, in one more pass over that member, which is known to be valid. Where it stands
# once more, else 0.
cdef size_t _find_include_usage(State* state, size_t at, Cut* found) noexcept nogil:
    cdef uint8_t room[LONGEST_NAME]
    cdef const uint8_t* name = NULL
    cdef size_t key, start, length = 0
    at = json_space(state, at + 1)
    while state.text[at] != c'}':
        key = at
        start = _name(state, key, room, &name, &length)
        at = json_value(state, start)
        if length == 13 and memcmp(name, b"include_usage", 13) == 0:
            if found.end != 0:
                return key
            found[0] = Cut(start, at)
        at = json_space(state, at)
        if state.text[at] == c',':
            at = json_space(state, at + 1)
    return 0


cdef bint _read_include_usage(State* state, const Span* spans, Cut* found) except -1:
    cdef const Span* span = &spans[STREAM_OPTIONS]
    cdef size_t twice
    if _is_null(state, span):
        return False
    if state.text[span.start] != c'{':
        _wrong_type(STREAM_OPTIONS, span.start, "an object")
    twice = _find_include_usage(state, span.start, found)
    if twice != 0:
        raise ScanError("duplicate_parameter", "stream_options", twice,
                        f"`stream_options.include_usage` stands twice, at byte {twice}")
    return found.end != 0 and state.text[found.start] == c't'


# `messages`, `prompt`, `input` or `query`, the first that is there; -1: none.
cdef inline int _prompt(const State* state, const Span* spans) noexcept nogil:
    cdef int member
    for member in range(MESSAGES, INPUT + 1):
        if not _is_null(state, &spans[member]):
            return member
    return -1 if _is_null(state, &spans[QUERY]) else QUERY


cpdef object scan(bytes body, size_t depth=64, size_t members=10000, size_t digits=40, Forbidden forbidden=None):
    if body is None:
        raise TypeError("body must be bytes")
    cdef State state
    cdef Cut cuts[MOST_FORBIDDEN]
    cdef Scan found = Scan.__new__(Scan)
    cdef Span* spans = found._spans
    cdef const Span* prompt
    cdef int member
    memset(&state, 0, sizeof(State))
    state.text = <const uint8_t*>PyBytes_AS_STRING(body)
    state.length = PyBytes_GET_SIZE(body)
    state.limits.depth = min(depth, <size_t>DEEPEST)
    state.limits.members = min(members, <size_t>1 << 40)
    state.limits.digits = digits
    state.error_member = -1
    found._length = state.length
    found.forbidden = _body(&state, spans, &forbidden._rules if forbidden is not None else NULL, cuts)
    if found.forbidden < 0:
        _raise(&state)
    if found.forbidden > 0:
        found._cuts = PyBytes_FromStringAndSize(<char*>cuts, found.forbidden * sizeof(Cut))
    found.model = _read_text(&state, spans, MODEL, 512)
    found.user = _read_text(&state, spans, USER, 1024)
    found.prompt_cache_key = _read_text(&state, spans, PROMPT_CACHE_KEY, 1024)
    found.stream = _read_boolean(&state, spans, STREAM)
    found.include_usage = _read_include_usage(&state, spans, &found._include_usage)
    found.choices = _read_whole(&state, spans, N, 1)
    found.max_tokens = _read_whole(&state, spans, MAX_TOKENS, -1)
    found.max_tokens = _smaller(found.max_tokens, _read_whole(&state, spans, MAX_COMPLETION_TOKENS, -1))
    found.max_tokens = _smaller(found.max_tokens, _read_whole(&state, spans, MAX_OUTPUT_TOKENS, -1))
    found.tools_start = spans[TOOLS].start
    found.tools_end = spans[TOOLS].end
    member = _prompt(&state, spans)
    if member >= 0:
        prompt = &spans[member]
        found.prompt_start = prompt.start
        found.prompt_end = prompt.end
        # valid JSON of digits, commas and space alone is whole numbers
        if state.text[prompt.start] == c'[' and prompt.items > 0:
            found.prompt_is_tokens = digits_and_space(state.text + prompt.start + 1, prompt.end - prompt.start - 2)
            found.prompt_tokens = prompt.items if found.prompt_is_tokens else 0
    return found
