# Chained hashes of a prompt's blocks.
#
# hash[0] = H(seed, block 0), hash[i] = H(hash[i - 1], block i): equal hashes at equal positions mean an equal prefix. H sums 128-bit
# products of the block's 64-bit words, each with a word made of the run directory's two random keys, and folds the sum with the
# hash before it.
from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    FEW = 32                      # hashes that need no memory of their own

cdef class BlockHashes:
    cdef uint64_t* values
    cdef size_t count
    cdef uint64_t few[FEW]

    cdef int _reserve(self, size_t count) except -1

cdef class Hasher:
    cdef uint64_t key[6]          # one word for each factor of the products in names and seeds
    cdef uint64_t text_words[6]   # and in blocks of `block_bytes`
    cdef readonly size_t block_bytes
    cdef readonly size_t maximum_blocks

    cpdef object hash_text(self, bytes text, size_t start=*, size_t end=*, uint64_t seed=*)
