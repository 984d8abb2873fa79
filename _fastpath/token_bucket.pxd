# Token buckets in shared memory, and the journal of what each worker holds of them.
#
# A bucket's state is one 64-bit word: its theoretical arrival time (GCRA: the moment at which the bucket will be full again) in
# nanoseconds, and in the low four bits the place of its limits. Limits lie in a ring of fifteen places; a change writes a place that is
# not the one in force and then exchanges the word, arrival time rescaled and place moved in one step. So limits change for all
# workers at the same instant, are rescaled once however many workers bring the change, and never refill a bucket. The place follows
# from the generation: who brings the same change writes the same bytes, and who brings another writes elsewhere. Of limits that each worker
# reads by itself the generation is a moment; two workers that meet in a place in the same instant write them once more a look later.
#
# A bucket of a limit that other gateways share (`store` is not 0) does not fill with time: its clock stands still, and what is leased for it
# is given to it (`_fastpath/leased_bucket`). So all that can be done with a bucket is the same for both kinds. One that is as good as empty
# has no state worth keeping.
#
# A full bucket has no state worth keeping: when all are taken, a full one is given to the next identity. So whoever kept the index of
# a bucket compares the identity before it takes or gives. Place 0 means not configured; for a second after it was opened such a bucket
# counts as not full, so that it is still there when its limits come.
from libc.stdint cimport int64_t, uint32_t, uint64_t
from _fastpath.identity_table cimport IdentityColumn
from _fastpath.shared_memory cimport SharedMemory

cdef enum:
    PLACE_BITS = 4
    PLACE_MASK = 15
    LIMITS_RING = 15
    MAXIMUM_LIMITS = 16           # of one request: eight of its route, four of its tenant, four of its API key
    BUCKET_SPARE = 2

cdef enum Kind:
    INPUT_TOKENS = 0
    OUTPUT_TOKENS = 1
    REQUESTS = 2

# Of the store that a leased bucket is filled from.
cdef enum Standing:
    UNASKED = 0                   # nothing has been heard of it yet
    LEASED = 1
    SHARED = 2                    # it is away: this gateway's share flows in
    OPENED = 3                    # it is away: everybody is let through
    CLOSED = 4                    # it is away: what was leased is all there is

cdef struct Limits:
    uint64_t generation           # of the snapshot that brought them; an older one changes nothing
    double interval               # nanoseconds a token
    double tolerance              # nanoseconds to fill the whole bucket: burst x interval

cdef struct Bucket:
    uint64_t identity
    uint64_t state                # arrival time << PLACE_BITS | place of the limits in force, from 1
    uint64_t store                # 0: fills with time; else which store leases for it, and what when that is away; as long as identity stands
    Limits limits[LIMITS_RING]    # place 1 first
    uint64_t key                  # what the store calls it
    uint64_t standing
    uint64_t dry_until            # monotonic nanoseconds; the store has nothing to lease before
    uint64_t wanted               # tokens that were refused and asked for since the last look
    double elsewhere              # tokens that the store had left
    double shares                 # how much longer a wait is than at the whole rate
    uint64_t spare[BUCKET_SPARE]

# The moment that a leased bucket stands at, half of the clock's range: half for the fullest bucket, half for debt.
cdef inline uint64_t _frozen() noexcept nogil:
    return <uint64_t>1 << 57

cdef inline uint64_t _moment(Bucket* bucket, uint64_t now) noexcept nogil:
    return now if bucket.store == 0 else _frozen()

# Nanoseconds from a moment until a bucket of this state is full, below 0 when it is by then. Differences are exact, where the clock itself
# has more digits than a double.
cdef inline double _span(uint64_t state, uint64_t moment) noexcept nogil:
    return <double><int64_t>((state >> PLACE_BITS) - moment)

# Tokens in a leased bucket.
cdef inline double _leased(Bucket* bucket, uint64_t state) noexcept nogil:
    cdef Limits* limits = _limits(bucket, state)
    return (limits.tolerance - _span(state, _frozen())) / limits.interval

# The limits in force; place 0 has none, and who may meet it looks first.
cdef inline Limits* _limits(Bucket* bucket, uint64_t state) noexcept nogil:
    return &bucket.limits[((state & PLACE_MASK) or 1) - 1]

cdef struct Held:
    uint64_t bucket
    uint64_t identity             # of the bucket when it was taken from; another by now means that the bucket was full and given away
    int64_t tokens

cdef struct JournalRecord:
    uint64_t in_use
    uint64_t held                 # how many of the entries below were taken
    Held entries[MAXIMUM_LIMITS]

cdef class TokenBuckets:
    cdef SharedMemory memory
    cdef IdentityColumn identities
    cdef Bucket* buckets
    cdef uint64_t capacity
    cdef dict _unconfirmed        # place -> odd word at the last sweep

    cdef int64_t take(self, Bucket* bucket, int64_t tokens, uint64_t now) noexcept nogil
    cdef void give(self, Bucket* bucket, int64_t tokens, uint64_t now) noexcept nogil
    cdef Bucket* _at(self, uint64_t index) except NULL
    cdef long _take_any(self, uint64_t word, uint64_t now, uint64_t first, uint64_t store, uint64_t key) noexcept nogil

# What a limit of a kind asks for.
cdef inline int64_t _counted(Kind kind, int64_t input_tokens, int64_t output_tokens) noexcept nogil:
    return input_tokens if kind == INPUT_TOKENS else output_tokens if kind == OUTPUT_TOKENS else 1

cdef class LimitSet:
    cdef uint32_t count
    cdef uint64_t buckets[MAXIMUM_LIMITS]
    cdef uint64_t identities[MAXIMUM_LIMITS]
    cdef Kind kinds[MAXIMUM_LIMITS]
    cdef object told              # what `_fastpath.limit_headers` keeps of it

cdef class Journal:
    cdef TokenBuckets buckets
    cdef JournalRecord* records
    cdef uint32_t* free_records
    cdef uint64_t free_count
    cdef uint64_t capacity
    cdef readonly int refused
    cdef readonly double wait
    cdef readonly bint is_closed

    cpdef int64_t take(self, LimitSet limits, int64_t input_tokens, int64_t output_tokens, uint64_t now) except? -3
    cpdef object settle(self, LimitSet limits, uint64_t handle, int64_t input_tokens, int64_t output_tokens, uint64_t now)
    cpdef object cancel(self, uint64_t handle, uint64_t now)
    cdef int _collect_free(self) except -1
    cdef long _too_large(self, LimitSet limits, uint64_t first, int64_t input_tokens, int64_t output_tokens) except -2
    cdef int64_t _wait_longer(self, Bucket* bucket, int64_t wait, uint64_t now) noexcept nogil
    cdef bint _is_stale(self, LimitSet limits, uint64_t i) except -1
    cdef void _give(self, const Held* entry, int64_t tokens, uint64_t now) noexcept nogil
    cdef int _give_back(self, JournalRecord* record, uint64_t now) except -1
    cdef JournalRecord* _record(self, uint64_t handle) except NULL
