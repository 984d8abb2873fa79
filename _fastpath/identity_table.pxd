# Identity -> index, claimed by any process without a lock.
#
# A table is a column of 64-bit words: 0 is free, an even word is a confirmed identity, the same word with its low bit set is a
# claim being made. Who claims writes the odd word, looks through the whole table for another copy of the identity, and confirms
# only when it is alone. Of two who claim at once at least one sees the other: who stands higher withdraws, who stands lower looks again
# until the other has withdrawn, or was there first after all. So an identity is never confirmed at two places, and one of those who
# claim always gets on. A process killed between the two steps leaves an odd word; `sweep` of the table's owner removes those that a
# second look finds unchanged.
from libc.stdint cimport uint64_t
from _fastpath.atomics cimport atomic_load_u64, atomic_store_u64, atomic_exchange_if_u64, atomic_fence, processor_yield

cdef enum:
    TABLE_FULL = -1
    TABLE_BUSY = -2               # another process is claiming the same identity and does not get on; ask again
    LOOKS = 500                   # at another's claim, with a turn of the processor each: about a millisecond
    ATTEMPTS = 8                  # of one who claims: more than processes that race for one identity make necessary

# A column of a table: `stride` words apart, so that it may stand in an array of structures.
cdef struct IdentityColumn:
    uint64_t* words
    uint64_t stride
    uint64_t capacity
    uint64_t* high_water          # one past the highest place that was ever taken


cdef inline uint64_t* identity_at(const IdentityColumn* column, uint64_t index) noexcept nogil:
    return column.words + index * column.stride


cdef inline uint64_t identity_word(uint64_t identity) noexcept nogil:
    cdef uint64_t word = identity & ~<uint64_t>1
    return word if word != 0 else <uint64_t>2


cdef inline long identity_find(const IdentityColumn* column, uint64_t word) noexcept nogil:
    cdef uint64_t i
    for i in range(atomic_load_u64(column.high_water)):
        if identity_at(column, i)[0] == word:
            return <long>i
    return -1


# Claim a place that holds `before`.
cdef inline bint identity_take(const IdentityColumn* column, uint64_t index, uint64_t before, uint64_t word) noexcept nogil:
    cdef uint64_t* place = identity_at(column, index)
    return atomic_load_u64(place) == before and atomic_exchange_if_u64(place, before, word | 1)


# The lowest free place, claimed; so what is in use lies together.
cdef inline long identity_take_free(const IdentityColumn* column, uint64_t first, uint64_t word) noexcept nogil:
    cdef uint64_t i
    for i in range(first, column.capacity):
        if identity_take(column, i, 0, word):
            return <long>i
    return TABLE_FULL


# After a claim: the place once it is confirmed, TABLE_BUSY when it was withdrawn.
cdef inline long identity_confirm(const IdentityColumn* column, uint64_t index, uint64_t word) noexcept nogil:
    cdef uint64_t j, seen, top = atomic_load_u64(column.high_water)
    cdef int look
    cdef bint is_alone
    while top < index + 1 and not atomic_exchange_if_u64(column.high_water, top, index + 1):
        top = atomic_load_u64(column.high_water)
    atomic_fence()
    for look in range(LOOKS):
        is_alone = True
        for j in range(atomic_load_u64(column.high_water)):
            seen = atomic_load_u64(identity_at(column, j))
            if j != index and (seen | 1) == (word | 1):
                if j < index or seen == word:
                    atomic_exchange_if_u64(identity_at(column, index), word | 1, 0)
                    return TABLE_BUSY
                is_alone = False
        if is_alone:
            # the exchange fails when the sweep took this claim for a dead process's
            return <long>index if atomic_exchange_if_u64(identity_at(column, index), word | 1, word) else TABLE_BUSY
        processor_yield()
    atomic_exchange_if_u64(identity_at(column, index), word | 1, 0)
    return TABLE_BUSY


# Wait, for a while, until nobody is claiming the identity.
cdef inline void identity_settle(const IdentityColumn* column, uint64_t word) noexcept nogil:
    cdef uint64_t i
    cdef int look
    cdef bint is_claimed
    for look in range(LOOKS):
        is_claimed = False
        for i in range(atomic_load_u64(column.high_water)):
            if atomic_load_u64(identity_at(column, i)) == word | 1:
                is_claimed = True
                break
        if not is_claimed:
            return
        processor_yield()
