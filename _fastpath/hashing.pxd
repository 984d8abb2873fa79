# Chained hashes of a prompt's blocks.
#
# hash[0] = H(seed, block 0), hash[i] = H(hash[i - 1], block i): equal hashes at equal positions mean an equal prefix. H folds
# 128-bit products of the block's 64-bit words and the run directory's two random keys.
from libc.stdint cimport uint8_t, uint64_t

cdef class BlockHashes:
    cdef uint64_t* values
    cdef size_t count
    cdef size_t capacity

    cdef int _reserve(self, size_t count) except -1

cdef class Hasher:
    cdef uint64_t key[6]          # one word for each factor of the products
    cdef readonly size_t block_bytes
    cdef readonly size_t maximum_blocks

    cpdef object hash_text(self, bytes text, size_t start=*, size_t end=*, uint64_t seed=*)
