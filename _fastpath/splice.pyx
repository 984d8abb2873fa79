from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy
from _fastpath.grammar cimport is_space
from _fastpath.scanner cimport POSITIONS, STREAM_OPTIONS, Cut, Scan, Span

from json import dumps


# A scan of another body would send us through memory that is not ours.
cdef int _check(bytes body, Scan found) except -1:
    if <size_t>PyBytes_GET_SIZE(body) != found._length:
        raise _another_body()
    return 0


cdef object _another_body():
    return ValueError("the scan is of another body")


# Back over white space to what stands before it, which may be the start.
cdef inline size_t _before_space(const char* text, size_t at) noexcept nogil:
    while at > 0 and is_space(<uint8_t>text[at - 1]):
        at -= 1
    return at


cdef inline void _replace(Plan* plan, size_t start, size_t end, const char* value, size_t size) noexcept nogil:
    if size != end - start or memcmp(plan.text + start, value, size) != 0:
        plan.edits[plan.count] = Edit(start, end, value, size)
        plan.count += 1


cdef inline void _remove(Plan* plan, size_t start, size_t end) noexcept nogil:
    cdef size_t at = end
    while at < plan.length and is_space(<uint8_t>plan.text[at]):
        at += 1
    plan.edits[plan.count] = Edit(start, at + 1 if at < plan.length and plan.text[at] == c',' else end, NULL, 0)
    plan.count += 1


# The few edits into the order of the body.
cdef void _sort(Plan* plan) noexcept nogil:
    cdef int i, place
    cdef Edit edit
    for i in range(1, plan.count):
        edit = plan.edits[i]
        place = i
        while place > 0 and plan.edits[place - 1].start > edit.start:
            plan.edits[place] = plan.edits[place - 1]
            place -= 1
        plan.edits[place] = edit


# When the last member goes, so does the comma before it; it may belong to one that goes as well.
cdef void _close_up(Plan* plan) noexcept nogil:
    cdef int first = plan.count - 1
    cdef size_t end, at
    if first < 0 or plan.edits[first].text != NULL or plan.text[plan.edits[first].end - 1] == c',':
        return
    end = plan.edits[first].end
    at = _before_space(plan.text, plan.edits[first].start)
    while first > 0 and plan.edits[first - 1].text == NULL and plan.edits[first - 1].end == at:
        first -= 1
        at = _before_space(plan.text, plan.edits[first].start)
    if at > 0 and plan.text[at - 1] == c',':
        at -= 1
    else:
        plan.empty = True
    plan.edits[first] = Edit(at, end, NULL, 0)
    plan.count = first + 1


# The name of a member as JSON, and its colon.
cdef bytes _quoted(str name):
    if name is None:
        raise TypeError("a member's name must be a string")
    if name.isascii() and name.isidentifier():
        return ('"' + name + '":').encode()
    return (dumps(name, ensure_ascii=False) + ":").encode()


# Note the changes of members that are there; those that are not, to be put in: name, value, name, value.
# `held` keeps values that the plan points into, which a mapping may have made for us alone.
cdef list _plan_changes(Plan* plan, Scan found, changes, list held):
    cdef list added = []
    cdef const Span* span
    for name, value in changes.items():
        if plan.count == MOST_EDITS:
            raise ValueError("the changes name a member twice")
        position = POSITIONS.get(name)
        span = &found._spans[<int>position] if position is not None else NULL
        if value is None:
            if span == NULL:
                raise ValueError(f"`{name}` cannot be taken out: the scanner does not look for it; forbid it instead")
            if span.end != 0:
                _remove(plan, span.key, span.end)
        elif span == NULL or span.end == 0:
            added.append(_quoted(name))
            added.append(<bytes?>value)
        else:
            held.append(value)
            _replace(plan, span.start, span.end, PyBytes_AS_STRING(<bytes?>value), PyBytes_GET_SIZE(<bytes?>value))
    return added


# The size of the result; 0 when the edits cannot be of this body.
cdef size_t _size(const Plan* plan, list added) except? 0:
    cdef size_t size = plan.length
    cdef size_t at = 0
    cdef int i
    for i in range(plan.count):
        if plan.edits[i].start < at or plan.edits[i].end > plan.insert_at:
            return 0
        at = plan.edits[i].end
        size += plan.edits[i].size
        size -= at - plan.edits[i].start
    if added:
        for piece in added:
            size += PyBytes_GET_SIZE(<bytes>piece)
        size += len(added) // 2 - plan.empty
    return size


cdef inline char* _copy(char* to, const char* text, size_t size) noexcept nogil:
    memcpy(to, text, size)
    return to + size


cdef int _write(const Plan* plan, list added, char* to) except -1:
    cdef size_t at = 0
    cdef int i
    cdef bint comma = not plan.empty
    for i in range(plan.count):
        to = _copy(to, plan.text + at, plan.edits[i].start - at)
        if plan.edits[i].size > 0:
            to = _copy(to, plan.edits[i].text, plan.edits[i].size)
        at = plan.edits[i].end
    to = _copy(to, plan.text + at, plan.insert_at - at)
    for i in range(len(added)):
        if i % 2 == 0:
            if comma:
                to = _copy(to, b",", 1)
            comma = True
        piece = <bytes>added[i]
        to = _copy(to, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))
    _copy(to, plan.text + plan.insert_at, plan.length - plan.insert_at)
    return 0


def splice(bytes body not None, Scan found not None, changes not None):
    cdef Plan plan
    cdef const Cut* cuts
    cdef list added, held = []
    cdef bytes result
    cdef size_t size
    cdef int i
    _check(body, found)
    plan.text = PyBytes_AS_STRING(body)
    plan.length = found._length
    plan.count = 0
    if found.forbidden > 0:
        cuts = <const Cut*>PyBytes_AS_STRING(found._cuts)
        for i in range(found.forbidden):
            _remove(&plan, cuts[i].start, cuts[i].end)
    added = _plan_changes(&plan, found, changes, held)
    if plan.count == 0 and not added:
        return body
    plan.insert_at = _before_space(plan.text, plan.length)
    plan.insert_at = _before_space(plan.text, max(plan.insert_at, <size_t>1) - 1)
    plan.empty = plan.insert_at > 0 and plan.text[plan.insert_at - 1] == c'{'
    _sort(&plan)
    _close_up(&plan)
    size = _size(&plan, added)
    if size == 0:
        raise _another_body()
    result = PyBytes_FromStringAndSize(NULL, size)
    _write(&plan, added, PyBytes_AS_STRING(result))
    return result


def with_usage(bytes body not None, Scan found not None):
    cdef const Span* span = &found._spans[STREAM_OPTIONS]
    cdef const Cut* usage = &found._include_usage
    cdef const char* text = PyBytes_AS_STRING(body)
    cdef size_t end
    _check(body, found)
    if span.end == 0 or text[span.start] == c'n':
        return b'{"include_usage":true}'
    if found.include_usage:
        return body[span.start : span.end]
    if usage.end != 0:
        return body[span.start : usage.start] + b"true" + body[usage.end : span.end]
    end = _before_space(text, span.end - 1)
    return body[span.start : end] + (b'"include_usage":true' if text[end - 1] == c'{' else b',"include_usage":true') + body[end : span.end]
