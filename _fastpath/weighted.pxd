# Scores by the reference system's scorers, each 0 to 100, times their weights.
from libc.stdint cimport uint64_t
from _fastpath.policy cimport Policy
from _fastpath.pool cimport Pool

cdef void score_by_weight(Pool pool, Policy policy, size_t blocks, uint64_t session, bint by_token,
                          uint64_t* random_state) noexcept nogil
