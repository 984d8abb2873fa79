# One pass over a JSON body: is it one valid JSON object, and where are the few members that the gateway needs, or must take out.
#
# No Python object is made but the answer. The whole text is checked (grammar, UTF-8, escapes, surrogates, limits), so that what
# passes here means the same to every strict parser behind us; a top-level member that routes or limits may stand once only, however its
# name is spelled.
from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef enum:
    MODEL = 0
    STREAM
    STREAM_OPTIONS
    MAX_TOKENS
    MAX_COMPLETION_TOKENS
    MAX_OUTPUT_TOKENS
    N
    USER
    PROMPT_CACHE_KEY
    MESSAGES
    PROMPT
    INPUT
    TOOLS
    SYSTEM
    INSTRUCTIONS
    QUERY
    DOCUMENTS
    MEMBERS

cdef enum:
    LONGEST_NAME = 128            # bytes of a name that is looked for or forbidden
    MOST_FORBIDDEN = 32           # members of one body

cdef dict POSITIONS               # of the members, by name

cdef struct Span:
    size_t key                    # the first byte of the name, which is its quote
    size_t start                  # first byte of the value
    size_t end                    # one past its last byte; 0 = the member is absent
    size_t items                  # of the value, when it is an array or object

cdef struct Cut:
    size_t start                  # the first byte of the name
    size_t end                    # one past the value's last

# Names one behind another: a byte for the length, one that says whether it is a prefix, the name.
cdef struct Rules:
    const uint8_t* entries
    size_t size
    uint64_t lengths[256]         # by a name's first byte: bit i = one of i bytes may be forbidden; the last bit stands for all longer ones

cdef class Forbidden:
    cdef readonly tuple names
    cdef bytes _entries
    cdef Rules _rules

    cdef int _add(self, str name, str stem, bint prefix) except -1

cdef class Scan:
    cdef Span _spans[17]
    cdef size_t _length           # of the body
    cdef Cut _include_usage       # the value of `stream_options.include_usage`; end 0 = absent
    cdef bytes _cuts              # a Cut for each forbidden member, in the body's order
    cdef readonly int forbidden
    cdef readonly bint stream
    cdef readonly bint include_usage
    cdef readonly int64_t max_tokens
    cdef readonly int64_t choices
    cdef readonly str model
    cdef readonly str user
    cdef readonly str prompt_cache_key
    cdef readonly size_t prompt_start
    cdef readonly size_t prompt_end
    cdef readonly size_t tools_start
    cdef readonly size_t tools_end
    cdef readonly bint prompt_is_tokens
    cdef readonly size_t prompt_tokens

cpdef object scan(bytes body, size_t depth=*, size_t members=*, size_t digits=*, Forbidden forbidden=*)
