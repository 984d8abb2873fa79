cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.string cimport memchr, memcmp, memcpy

cdef enum:
    LONGEST_SIZE = 15             # hexadecimal digits: more bytes than any answer has
    MOST_OVERHEAD = 8192          # bytes of extensions and trailers of one body
    LARGEST_HEAD = 32768
    LONGEST_LINE = 8192
    MOST_HEADERS = 100
    CR = 13
    LF = 10

cdef uint64_t LARGEST_LENGTH = <uint64_t>1 << 60
cdef tuple _JSON = ("content-type", "application/json")
cdef tuple _EVENTS = ("content-type", "text/event-stream; charset=utf-8")

cdef enum Known:                  # what is done with a header
    PASSED = 0
    DROPPED
    CONTENT_LENGTH
    CONTENT_TYPE
    CONNECTION
    TRANSFER_ENCODING


# Characters of a header's name (RFC 9110, token), in lower case; 0 for every other byte.
cdef unsigned char _token[256]
cdef int _code
for _code in range(256):
    _token[_code] = 0
for _code in b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz":
    _token[_code] = _code
for _code in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ":
    _token[_code] = _code + 32


class FramingError(Exception):
    pass


cdef inline int _digit(unsigned char byte) noexcept nogil:
    if 48 <= byte <= 57:
        return byte - 48
    if 97 <= byte <= 102:
        return byte - 87
    if 65 <= byte <= 70:
        return byte - 55
    return -1


cdef inline bint _is(const unsigned char* name, size_t length, const char* other, size_t other_length) noexcept nogil:
    return length == other_length and memcmp(name, other, length) == 0


# Headers of the engine's connection, and those in which the gateway speaks for itself: they go to no client. By their length, which few
# others share, so that most names are compared with one word.
cdef Known _known(const unsigned char* name, size_t length) noexcept nogil:
    if length >= 11 and memcmp(name, b"x-penstock-", 11) == 0:
        return DROPPED
    if length == 14:
        return CONTENT_LENGTH if memcmp(name, b"content-length", 14) == 0 else PASSED
    if length == 12:
        if memcmp(name, b"content-type", 12) == 0:
            return CONTENT_TYPE
        return DROPPED if memcmp(name, b"x-request-id", 12) == 0 else PASSED
    if length == 4:
        return DROPPED if memcmp(name, b"date", 4) == 0 else PASSED
    if length == 6:
        return DROPPED if memcmp(name, b"server", 6) == 0 else PASSED
    if length == 10:
        if memcmp(name, b"connection", 10) == 0:
            return CONNECTION
        return DROPPED if memcmp(name, b"keep-alive", 10) == 0 else PASSED
    if length == 17:
        return TRANSFER_ENCODING if memcmp(name, b"transfer-encoding", 17) == 0 else PASSED
    if (
        _is(name, length, b"proxy-authenticate", 18) or _is(name, length, b"proxy-connection", 16)
        or _is(name, length, b"server-timing", 13) or _is(name, length, b"te", 2) or _is(name, length, b"trailer", 7)
        or _is(name, length, b"upgrade", 7)
    ):
        return DROPPED
    return PASSED


# The line from `at` on: its length without CR LF. -1: it does not end here yet. -2: it is no line.
cdef long _line(const unsigned char* text, size_t at, size_t length) noexcept nogil:
    cdef const unsigned char* end = <const unsigned char*>memchr(text + at, LF, length - at)
    cdef size_t count
    if end == NULL:
        return -2 if length - at > LONGEST_LINE else -1
    count = <size_t>(end - text) - at
    if count == 0 or count > LONGEST_LINE or text[at + count - 1] != CR:
        return -2
    return <long>(count - 1)


# Whether bytes are text as a header may hold it: no control character but the tab. Eight at once, and the last eight once more.
cdef bint _is_field(const unsigned char* text, size_t length) noexcept nogil:
    cdef size_t i = 0
    cdef uint64_t word, low, deletes
    if length >= 8:
        while True:
            memcpy(&word, text + i, 8)
            # bytes below 32, and 127; one too many may be marked, which is looked at below
            low = (word - <uint64_t>0x2020202020202020) & ~word
            deletes = word ^ <uint64_t>0x7F7F7F7F7F7F7F7F
            deletes = (deletes - <uint64_t>0x0101010101010101) & ~deletes
            if (low | deletes) & <uint64_t>0x8080808080808080:
                break
            if i + 8 == length:
                return True
            i = min(i + 8, length - 8)
    while i < length:
        if (text[i] < 32 and text[i] != 9) or text[i] == 127:
            return False
        i += 1
    return True


# The status of a status line, -1 when it is none.
cdef int _status(const unsigned char* line, size_t length) noexcept nogil:
    cdef int i, status = 0
    if length < 12 or memcmp(line, b"HTTP/1.", 7) != 0 or line[7] < 48 or line[7] > 49 or line[8] != 32:
        return -1
    for i in range(9, 12):
        if line[i] < 48 or line[i] > 57:
            return -1
        status = status * 10 + (line[i] - 48)
    if length > 12 and (line[12] != 32 or not _is_field(line + 12, length - 12)):
        return -1
    return status


cdef object _beyond(size_t start, size_t length):
    return ValueError(f"start {start} of {length} bytes")


cpdef object parse_head(bytes data, size_t start=0):
    if data is None:
        raise TypeError("data must be bytes")
    cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(data)
    cdef size_t length = PyBytes_GET_SIZE(data)
    cdef size_t at = start
    cdef long count
    cdef int headers = 0
    cdef const unsigned char* colon
    cdef Head head = Head.__new__(Head)
    if start > length:
        raise _beyond(start, length)
    if memcmp(text + start, b"HTTP/1.", min(length - start, <size_t>7)) != 0:
        raise FramingError("not HTTP")
    head.headers = []
    head.status = -1
    head.announced = -1
    while True:
        count = _line(text, at, length)
        if count == -1 and length - start <= LARGEST_HEAD:
            return None
        if count < 0 or at - start > LARGEST_HEAD:
            raise FramingError("a head that does not end, or a line that does not end with CR LF")
        if head.status < 0:
            head.status = _status(text + at, count)
            if not 100 <= head.status <= 599 or head.status == 101:
                raise FramingError("a status line that is none, or a status that no client may see")
            head.keeps_alive = text[at + 7] == 49
        elif count == 0:
            break
        else:
            headers += 1
            colon = <const unsigned char*>memchr(text + at, 58, count)
            if colon == NULL or headers > MOST_HEADERS:
                raise FramingError("a header without a colon, or too many headers")
            head._header(text + at, <size_t>(colon - text) - at, count)
        at += count + 2
    head.end = at + 2
    if head.hop_names is not None:
        head.headers = [pair for pair in head.headers if pair[0] not in head.hop_names]
        head.is_event_stream = head.is_event_stream and "content-type" not in head.hop_names
    if head.chunked and head.announced >= 0:
        raise FramingError("a length beside transfer-encoding")
    if head.status < 200 or head.status == 204 or head.status == 304:
        head.announced, head.chunked = 0, False
    head.keeps_alive = head.keeps_alive and (head.chunked or head.announced >= 0)
    return head


@cython.final
@cython.freelist(64)
cdef class Head:
    @property
    def length(self):
        return self.announced if self.announced >= 0 else None

    cdef int _header(self, const unsigned char* line, size_t colon, size_t length) except -1:
        cdef unsigned char name[64]
        cdef size_t i, first = colon + 1, last = length
        if colon == 0 or colon > sizeof(name):
            raise FramingError("a header's name that is none")
        for i in range(colon):
            name[i] = _token[line[i]]
            if name[i] == 0:
                raise FramingError("a header's name that is none")
        if not _is_field(line + first, last - first):
            raise FramingError("a control character in a header")
        while first < last and (line[first] == 32 or line[first] == 9):
            first += 1
        while last > first and (line[last - 1] == 32 or line[last - 1] == 9):
            last -= 1
        # compared as bytes: of most answers' headers no text is made
        cdef Known known = _known(name, colon)
        if known == CONTENT_TYPE:
            return self._content_type(line + first, last - first)
        if known == PASSED:
            return self._pass_on(PyUnicode_DecodeASCII(<const char*>name, colon, NULL), line + first, last - first)
        if known == CONTENT_LENGTH:
            return self._content_length(line + first, last - first)
        if known == TRANSFER_ENCODING:
            if self.chunked or (<const char*>line)[first:last].lower() != b"chunked":
                raise FramingError("a transfer-encoding other than chunked")
            self.chunked = True
        elif known == CONNECTION:
            self._connection((<const char*>line)[first:last])
        return 0

    cdef int _pass_on(self, str name, const unsigned char* value, size_t length) except -1:
        cdef size_t i
        for i in range(length):
            if value[i] >= 127 or value[i] == 9:
                return 0                  # what RSGI could not pass on as it is
        self.headers.append((name, PyUnicode_DecodeASCII(<const char*>value, length, NULL)))
        return 0

    # Those that engines send, which are the same for each answer.
    cdef int _content_type(self, const unsigned char* value, size_t length) except -1:
        cdef Py_ssize_t passed = len(self.headers)
        if _is(value, length, b"application/json", 16):
            self.headers.append(_JSON)
        elif _is(value, length, b"text/event-stream; charset=utf-8", 32):
            self.headers.append(_EVENTS)
        else:
            self._pass_on("content-type", value, length)
        if len(self.headers) > passed:    # what no client is told does not make a stream either
            self.is_event_stream = length >= 17 and memcmp(value, b"text/event-stream", 17) == 0
        return 0

    cdef int _content_length(self, const unsigned char* value, size_t length) except -1:
        cdef uint64_t number = 0
        cdef size_t i
        if self.announced >= 0 or not 1 <= length <= 18:
            raise FramingError("a length that is none, or two")
        for i in range(length):
            if value[i] < 48 or value[i] > 57:
                raise FramingError("a length that is none")
            number = number * 10 + (value[i] - 48)
        self.announced = number
        return 0

    # Headers that this connection alone is about, and whether it goes on.
    cdef int _connection(self, bytes value) except -1:
        for part in value.decode("latin-1").lower().split(","):
            name = part.strip(" \t")
            if name == "close":
                self.keeps_alive = False
            elif name == "upgrade":
                raise FramingError("an upgrade that nobody asked for")
            elif name != "keep-alive":
                self.hop_names = (*(self.hop_names or ()), name)
        return 0


cpdef object body_of(Head head):
    if head is None:
        raise TypeError("head must be there")
    cdef BodyReader body = BodyReader.__new__(BodyReader)
    body.framing = CHUNKED if head.chunked else UNTIL_CLOSE if head.announced < 0 else LENGTH
    if body.framing == LENGTH:
        body.left = head.announced
        body.complete = body.left == 0
    return body


# Past the size of a chunk that stands here with its line's end, as most do; else where it began, to be read byte by byte.
cdef size_t _past_size(const unsigned char* text, size_t start, size_t length, uint64_t* size) noexcept nogil:
    cdef size_t at = start
    cdef uint64_t found = 0
    while at < length and at - start < LONGEST_SIZE and _digit(text[at]) >= 0:
        found = found << 4 | <uint64_t>_digit(text[at])
        at += 1
    if found == 0 or length - at < 2 or text[at] != CR or text[at + 1] != LF:
        return start
    size[0] = found
    return at + 2


@cython.final
@cython.freelist(64)
cdef class BodyReader:
    def __init__(self, *, length=None, bint chunked=False):
        if length is not None and chunked:
            raise ValueError("a body has a length or chunks")
        self.step = SIZE
        self.left = self.digits = self.overhead = 0
        self.excess = 0
        self.complete = False
        if chunked:
            self.framing = CHUNKED
        elif length is None:
            self.framing = UNTIL_CLOSE
        else:
            if not 0 <= length <= LARGEST_LENGTH:
                raise ValueError(f"length must be 0 to 2^60, not {length}")
            self.framing = LENGTH
            self.left = length
            self.complete = length == 0

    cpdef bytes feed(self, bytes data, size_t start=0):
        if data is None:
            raise TypeError("data must be bytes")
        cdef size_t length = PyBytes_GET_SIZE(data)
        if start > length:
            raise _beyond(start, length)
        if self.complete:
            self.excess += length - start
            return b""
        if self.framing == CHUNKED:
            return self._feed_chunks(data, start)
        return self._feed_length(data, start)

    def end(self):
        if self.framing == UNTIL_CLOSE:
            self.complete = True
        return self.complete

    cdef bytes _feed_length(self, bytes data, size_t start):
        cdef size_t length = PyBytes_GET_SIZE(data) - start
        if self.framing == LENGTH:
            if length >= self.left:
                self.complete = True
                self.excess = length - self.left
                length = self.left
            self.left -= length
        if start == 0 and length == <size_t>PyBytes_GET_SIZE(data):
            return data
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + start, length)

    # The common case, one chunk or a part of one in one read, is one copy; a further one begins to gather.
    cdef bytes _feed_chunks(self, bytes data, size_t start):
        cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(data)
        cdef size_t length = PyBytes_GET_SIZE(data)
        cdef size_t at = start, piece_at = 0, piece = 0, gathered = 0, count
        cdef bytes whole = None
        cdef const char* fault
        if self.step == SIZE and self.digits == 0:
            at = _past_size(text, at, length, &self.left)
            if at > start:
                self.step = DATA
        while at < length and not self.complete:
            if self.step != DATA:
                fault = self._frame(text[at])
                if fault != NULL:
                    raise FramingError((<bytes>fault).decode())
                at += 1
                continue
            count = min(length - at, self.left)
            if piece == 0:
                piece_at = at
                piece = count
            else:
                if whole is None:
                    whole = PyBytes_FromStringAndSize(NULL, length - start)
                    memcpy(PyBytes_AS_STRING(whole), text + piece_at, piece)
                    gathered = piece
                memcpy(PyBytes_AS_STRING(whole) + gathered, text + at, count)
                gathered += count
            at += count
            self.left -= count
            if self.left == 0:
                self.step = DATA_CR
        self.excess = length - at
        if whole is not None:
            return whole[:gathered]
        return PyBytes_FromStringAndSize(<const char*>text + piece_at, piece) if piece > 0 else b""

    # One byte of what is not data. NULL, or what is wrong with it.
    cdef const char* _frame(self, unsigned char byte) noexcept nogil:
        if self.step == SIZE or self.step == MORE_SIZE:
            return self._size_byte(byte)
        if self.step == SIZE_LF:
            if byte != LF:
                return b"a chunk's size does not end with CR LF"
            self.step = DATA if self.left > 0 else TRAILER
        elif self.step == DATA_CR:
            if byte != CR:
                return b"a chunk is longer than its size"
            self.step = DATA_LF
        elif self.step == DATA_LF:
            if byte != LF:
                return b"a chunk does not end with CR LF"
            self.step = SIZE
            self.digits = 0
        elif self.step == LAST_LF:
            if byte != LF:
                return b"the body does not end with CR LF"
            self.complete = True
        elif self.step == TRAILER_LF:
            if byte != LF:
                return b"a trailer does not end with CR LF"
            self.step = TRAILER
        elif self.step == TRAILER and byte == CR:
            self.step = LAST_LF
        else:
            return self._overhead_byte(byte)
        return NULL

    cdef const char* _size_byte(self, unsigned char byte) noexcept nogil:
        cdef int digit = _digit(byte)
        if digit >= 0:
            if self.digits == LONGEST_SIZE:
                return b"a chunk's size has too many digits"
            self.left = (self.left << 4 | <uint64_t>digit) if self.digits > 0 else <uint64_t>digit
            self.digits += 1
            self.step = MORE_SIZE
        elif self.digits == 0:
            return b"a chunk's size is not hexadecimal"
        elif byte == CR:
            self.step = SIZE_LF
        elif byte == 59:
            self.step = EXTENSION
        else:
            return b"a chunk's size is not hexadecimal"
        return NULL

    # A byte of an extension or a trailer, which nobody reads.
    cdef const char* _overhead_byte(self, unsigned char byte) noexcept nogil:
        self.overhead += 1
        if self.overhead > MOST_OVERHEAD:
            return b"chunk extensions or trailers are too long"
        if self.step == EXTENSION:
            if byte == CR:
                self.step = SIZE_LF
                return NULL
        elif byte == CR:
            self.step = TRAILER_LF
            return NULL
        else:
            self.step = TRAILER_LINE
        if byte == 127 or (byte < 32 and byte != 9):
            return b"a chunk extension or trailer has a control character"
        return NULL
