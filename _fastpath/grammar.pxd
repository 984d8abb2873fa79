# JSON's grammar (RFC 8259), token by token: strict, within limits, and no Python object made.
#
# A function takes where its token begins and gives where it ends, or 0 when it refuses; where we are stays in a register, and a State
# holds what else there is to know. Its first refusal is the one that counts.
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp
from _fastpath.text cimport digits, plain_text, valid_utf8

cdef enum:
    NO_ERROR = 0
    NOT_AN_OBJECT
    SYNTAX
    ENDS_EARLY
    TRAILING
    BAD_UTF8
    BAD_ESCAPE
    BAD_SURROGATE
    CONTROL_CHARACTER
    BAD_NUMBER
    TOO_DEEP
    TOO_WIDE
    TOO_MANY_DIGITS
    DUPLICATE
    TOO_MANY_FORBIDDEN
    BYTE_ORDER_MARK

cdef enum:
    DEEPEST = 250                 # what the stack of `json_container` is made for
    ARRAY_FACTOR = 100            # an array may be this many times as wide as an object: prompts are arrays of token ids

cdef struct Limits:
    size_t depth
    size_t members                # of one object
    size_t digits                 # of one number

cdef struct State:
    const uint8_t* text
    size_t length
    size_t depth                  # of what is open around a value
    size_t items                  # of the array or object that ended last
    bint escaped                  # a name that was passed has escapes; for who asks to clear
    int error
    int error_member              # the member at fault, -1
    size_t error_at
    Limits limits


cdef inline size_t refuse(State* state, int error, size_t at) noexcept nogil:
    if state.error == NO_ERROR:
        state.error = error
        state.error_at = at
    return 0


cdef inline bint is_space(uint8_t c) noexcept nogil:
    return c == c' ' or c == c'\n' or c == c'\r' or c == c'\t'


cdef inline bint is_digit(uint8_t c) noexcept nogil:
    return c'0' <= c <= c'9'


cdef inline size_t json_space(const State* state, size_t at) noexcept nogil:
    while at < state.length and is_space(state.text[at]):
        at += 1
    return at


# The character that must stand here.
cdef inline size_t json_character(State* state, size_t at, uint8_t wanted) noexcept nogil:
    if at >= state.length:
        return refuse(state, ENDS_EARLY, at)
    return at + 1 if state.text[at] == wanted else refuse(state, SYNTAX, at)


cdef inline long hexadecimal(uint8_t c) noexcept nogil:
    if is_digit(c):
        return c - c'0'
    c |= 0x20
    return c - c'a' + 10 if c'a' <= c <= c'f' else -1


# The code unit of \uXXXX at `at`, -1 when there is none.
cdef inline long json_unit(const uint8_t* text, size_t length, size_t at) noexcept nogil:
    cdef long a, b, c, d
    if length - at < 6 or text[at] != c'\\' or text[at + 1] != c'u':
        return -1
    a = hexadecimal(text[at + 2])
    b = hexadecimal(text[at + 3])
    c = hexadecimal(text[at + 4])
    d = hexadecimal(text[at + 5])
    return -1 if (a | b | c | d) < 0 else a * 4096 + b * 256 + c * 16 + d


cdef inline size_t json_escape(State* state, size_t at) noexcept nogil:
    cdef uint8_t c
    cdef long unit
    if at + 1 >= state.length:
        return refuse(state, ENDS_EARLY, at)
    c = state.text[at + 1]
    if c == c'u':
        unit = json_unit(state.text, state.length, at)
        if unit < 0:
            return refuse(state, BAD_ESCAPE, at)
        if not 0xD800 <= unit <= 0xDFFF:
            return at + 6
        if unit >= 0xDC00 or not 0xDC00 <= json_unit(state.text, state.length, at + 6) <= 0xDFFF:
            return refuse(state, BAD_SURROGATE, at)
        return at + 12
    if c == c'n' or c == c'"' or c == c'\\' or c == c't' or c == c'/' or c == c'r' or c == c'b' or c == c'f':
        return at + 2
    return refuse(state, BAD_ESCAPE, at)


cdef inline size_t json_string(State* state, size_t start) noexcept nogil:
    cdef const uint8_t* text = state.text
    cdef size_t length = state.length
    cdef size_t at = start + 1
    cdef size_t count, valid
    cdef uint32_t high
    while True:
        count = plain_text(text + at, length - at, &high, &state.escaped)
        if high != 0:
            valid = valid_utf8(text + at, count)
            if valid != count:
                return refuse(state, BAD_UTF8, at + valid)
        at += count
        if at >= length:
            return refuse(state, ENDS_EARLY, start)
        if text[at] == c'"':
            return at + 1
        if text[at] != c'\\':
            return refuse(state, CONTROL_CHARACTER, at)
        state.escaped = True
        while at < length and text[at] == c'\\':
            at = json_escape(state, at)
            if at == 0:
                return 0


cdef inline size_t json_number(State* state, size_t start) noexcept nogil:
    cdef const uint8_t* text = state.text
    cdef size_t length = state.length
    cdef size_t at = start + (text[start] == c'-')
    cdef size_t end = at + 1 if at < length and text[at] == c'0' else at + digits(text + at, length - at)
    if end == at:
        return refuse(state, BAD_NUMBER, start)
    if end < length and text[end] == c'.':
        at = end + 1
        end = at + digits(text + at, length - at)
        if end == at:
            return refuse(state, BAD_NUMBER, start)
    if end < length and (text[end] | 0x20) == c'e':
        at = end + 1
        if at < length and (text[at] == c'+' or text[at] == c'-'):
            at += 1
        end = at + digits(text + at, length - at)
        if end == at:
            return refuse(state, BAD_NUMBER, start)
    return end if end - start <= state.limits.digits else refuse(state, TOO_MANY_DIGITS, start)


cdef inline size_t json_word(State* state, size_t at, const char* word, size_t length) noexcept nogil:
    if state.length - at < length or memcmp(state.text + at, word, length) != 0:
        return refuse(state, SYNTAX, at)
    return at + length


# A string, number or word.
cdef inline size_t json_scalar(State* state, size_t at) noexcept nogil:
    cdef uint8_t c = state.text[at]
    if c == c'"':
        return json_string(state, at)
    if c == c'-' or is_digit(c):
        return json_number(state, at)
    if c == c't':
        return json_word(state, at, b"true", 4)
    if c == c'f':
        return json_word(state, at, b"false", 5)
    if c == c'n':
        return json_word(state, at, b"null", 4)
    return refuse(state, SYNTAX, at)


# A name and its colon, to the first byte of the value. `end` receives where the name's closing quote stands.
cdef inline size_t json_name(State* state, size_t at, size_t* end) noexcept nogil:
    if at >= state.length:
        return refuse(state, ENDS_EARLY, at)
    if state.text[at] != c'"':
        return refuse(state, SYNTAX, at)
    at = json_string(state, at)
    if at == 0:
        return 0
    end[0] = at - 1
    at = json_character(state, json_space(state, at), c':')
    return json_space(state, at) if at != 0 else 0


# An object or array: what is open inside it is kept in arrays, not by recursion.
cdef inline size_t json_container(State* state, size_t at) noexcept nogil:
    cdef const uint8_t* text = state.text
    cdef size_t length = state.length
    cdef uint8_t closing[DEEPEST]
    cdef size_t left[DEEPEST]     # how many more members each container may have
    cdef size_t items = 0         # of the outermost
    cdef size_t level = 0
    cdef size_t end
    cdef bint opened
    while True:
        if at >= length:
            return refuse(state, ENDS_EARLY, at)
        opened = text[at] == c'{' or text[at] == c'['
        if opened:
            if state.depth + level >= state.limits.depth:
                return refuse(state, TOO_DEEP, at)
            closing[level] = c'}' if text[at] == c'{' else c']'
            left[level] = state.limits.members * (1 if text[at] == c'{' else ARRAY_FACTOR)
            level += 1
            at += 1
        else:
            at = json_scalar(state, at)
            if at == 0:
                return 0
        while True:
            at = json_space(state, at)
            if at >= length:
                return refuse(state, ENDS_EARLY, at)
            if text[at] != closing[level - 1]:
                break
            at += 1
            level -= 1
            opened = False
            if level == 0:
                state.items = items
                return at
        if not opened:
            if text[at] != c',':
                return refuse(state, SYNTAX, at)
            at = json_space(state, at + 1)
        if left[level - 1] == 0:
            return refuse(state, TOO_WIDE, at)
        left[level - 1] -= 1
        items += level == 1
        if closing[level - 1] == c'}':
            at = json_name(state, at, &end)
            if at == 0:
                return 0


cdef inline size_t json_value(State* state, size_t at) noexcept nogil:
    if at >= state.length:
        return refuse(state, ENDS_EARLY, at)
    return json_container(state, at) if state.text[at] == c'{' or state.text[at] == c'[' else json_scalar(state, at)


# A name, whose bytes hold escapes and are known to be right, without them; no more than `room` bytes, and all counted.
cdef inline size_t unescaped(const uint8_t* text, size_t length, uint8_t* name, size_t room) noexcept nogil:
    cdef uint8_t sequence[4]
    cdef size_t at = 0, count = 0, i, width
    cdef long unit
    # what is longer than there is room for equals nothing that fits: how much longer does not matter
    while at < length and count <= room:
        width = 1
        if text[at] != c'\\':
            sequence[0] = text[at]
            at += 1
        elif text[at + 1] != c'u':
            sequence[0] = short_escape(text[at + 1])
            at += 2
        else:
            unit = json_unit(text, length, at)
            at += 6
            if 0xD800 <= unit <= 0xDBFF:
                unit = 0x10000 + ((unit - 0xD800) << 10) + (json_unit(text, length, at) - 0xDC00)
                at += 6
            width = encoded(unit, sequence)
        for i in range(width):
            if count < room:
                name[count] = sequence[i]
            count += 1
    return count


cdef inline uint8_t short_escape(uint8_t c) noexcept nogil:
    if c == c'b':
        return 8
    if c == c'f':
        return 12
    if c == c'n':
        return 10
    if c == c'r':
        return 13
    return 9 if c == c't' else c


# A character as UTF-8: how many bytes.
cdef inline size_t encoded(long character, uint8_t* sequence) noexcept nogil:
    if character < 0x80:
        sequence[0] = <uint8_t>character
        return 1
    sequence[1] = <uint8_t>(0x80 | (character & 0x3F))
    if character < 0x800:
        sequence[0] = <uint8_t>(0xC0 | (character >> 6))
        return 2
    sequence[2] = sequence[1]
    sequence[1] = <uint8_t>(0x80 | ((character >> 6) & 0x3F))
    if character < 0x10000:
        sequence[0] = <uint8_t>(0xE0 | (character >> 12))
        return 3
    sequence[3] = sequence[2]
    sequence[2] = sequence[1]
    sequence[1] = <uint8_t>(0x80 | ((character >> 12) & 0x3F))
    sequence[0] = <uint8_t>(0xF0 | (character >> 18))
    return 4
