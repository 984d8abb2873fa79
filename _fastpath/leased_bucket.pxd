# Token buckets that are filled by leases: what their keeper, one process of a gateway, does with them.
#
# A worker that was refused adds what it wanted to the bucket (`Journal.ask`); the keeper leases for it from the store that gateways share,
# gives the tokens to the bucket, and says how the store stands. It looks at what has changed since its last look alone, its own changes
# among it.
from libc.stdint cimport uint64_t
from _fastpath.token_bucket cimport Bucket, TokenBuckets

cdef class LeasedBuckets:
    cdef TokenBuckets _buckets
    cdef uint64_t* _seen

    cdef Bucket* _of(self, uint64_t index, uint64_t identity) except? NULL
