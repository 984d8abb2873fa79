cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.buffer cimport PyObject_GetBuffer, PyBuffer_Release, PyBUF_SIMPLE
from libc.stdlib cimport free, malloc

from _fastpath.block_hash cimport (
    penstock_block_words, penstock_expand_key, penstock_hash, penstock_link_blocks,
)


@cython.final
@cython.freelist(64)
cdef class BlockHashes:
    def __cinit__(self):
        self.values = self.few
        self.count = 0

    def __dealloc__(self):
        if self.values != self.few:
            free(self.values)

    # Called once, on new ones.
    cdef int _reserve(self, size_t count) except -1:
        if count > FEW:
            self.values = <uint64_t*>malloc(count * sizeof(uint64_t))
            if self.values == NULL:
                raise MemoryError
        self.count = count
        return 0

    @staticmethod
    def of(values):
        cdef BlockHashes hashes = BlockHashes.__new__(BlockHashes)
        cdef size_t i
        hashes._reserve(len(values))
        for i in range(hashes.count):
            hashes.values[i] = values[i]
        return hashes

    def __len__(self):
        return self.count

    def __iter__(self):
        cdef size_t i
        for i in range(self.count):
            yield self.values[i]


@cython.final
cdef class Hasher:
    def __init__(self, tuple key not None, size_t block_bytes=64, size_t maximum_blocks=8192):
        if block_bytes < 1:
            raise ValueError("block_bytes must be at least 1")
        low, high = key
        penstock_expand_key(low, high, self.key)
        penstock_block_words(self.key, block_bytes, self.text_words)
        self.block_bytes = block_bytes
        self.maximum_blocks = maximum_blocks

    def seed(self, *parts):
        cdef uint64_t chain = 0
        cdef bytes data
        for part in parts:
            data = part.encode() if isinstance(part, str) else bytes(part)
            chain = penstock_hash(chain, <const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), self.key)
        return chain

    cpdef object hash_text(self, bytes text, size_t start=0, size_t end=<size_t>-1, uint64_t seed=0):
        if text is None:
            raise TypeError("text must be bytes")
        cdef size_t length = PyBytes_GET_SIZE(text)
        if end > length:
            end = length
        if start > end:
            raise ValueError(f"span {start} to {end} of {length} bytes")
        cdef size_t blocks = min((end - start) // self.block_bytes, self.maximum_blocks)
        cdef BlockHashes hashes = BlockHashes.__new__(BlockHashes)
        hashes._reserve(blocks)
        penstock_link_blocks(<const uint8_t*>PyBytes_AS_STRING(text) + start, blocks, self.block_bytes, seed,
                             self.text_words, hashes.values)
        return hashes

    def hash_tokens(self, tokens, size_t block_tokens=16, uint64_t seed=0):
        cdef Py_buffer view
        cdef BlockHashes hashes = BlockHashes.__new__(BlockHashes)
        cdef uint64_t words[6]
        cdef size_t blocks
        if block_tokens < 1:
            raise ValueError("block_tokens must be at least 1")
        PyObject_GetBuffer(tokens, &view, PyBUF_SIMPLE)
        try:
            if view.itemsize != 4:
                raise ValueError("tokens must be 32-bit integers: array('I', ids)")
            blocks = min(<size_t>view.len // 4 // block_tokens, self.maximum_blocks)
            hashes._reserve(blocks)
            penstock_block_words(self.key, 4 * block_tokens, words)
            penstock_link_blocks(<const uint8_t*>view.buf, blocks, 4 * block_tokens, seed, words, hashes.values)
        finally:
            PyBuffer_Release(&view)
        return hashes
