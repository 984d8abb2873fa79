# Scores by cost: minus the seconds that the request is expected to add.
from libc.stdint cimport uint64_t
from _fastpath.policy cimport Policy
from _fastpath.pool cimport Pool

cdef void score_by_cost(Pool pool, Policy policy, size_t blocks, double prompt_tokens, double output_tokens, double now,
                        uint64_t gateway) noexcept nogil
