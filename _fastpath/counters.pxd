# Labelled counters and histograms, a row a worker, each row with one writer.
#
#   row = header | directory[series] | cells
#
# A series is published by its place in the directory: the count of series moves on last. The directory and the cells stay when a
# worker dies; its successor goes on counting in the same row.
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from _fastpath.shared_memory cimport SharedMemory

cdef enum:
    LABEL_BYTES = 304
    MAXIMUM_FAMILIES = 64
    MAXIMUM_BOUNDARIES = 32
    MAXIMUM_ROW = 16

cdef struct Series:
    uint32_t cell
    uint16_t family
    uint16_t label_length
    uint64_t reserved
    char labels[LABEL_BYTES]

cdef struct RowHeader:
    uint64_t series
    uint64_t cells
    uint64_t dropped
    uint64_t reserved[5]

cdef struct FamilyShape:
    uint32_t boundaries           # 0 = a counter or gauge: one cell. Else boundaries + 1 counts and a sum.
    double edges[MAXIMUM_BOUNDARIES]

cdef class Counters:
    cdef SharedMemory memory
    cdef RowHeader* header
    cdef Series* directory
    cdef uint64_t* cells
    cdef FamilyShape shapes[MAXIMUM_FAMILIES]
    cdef readonly tuple families
    cdef dict _known              # (family, labels) -> handle
    cdef uint64_t _kept_cells     # numbers that the families' overflow series need

    cdef tuple _labels(self, Series* series)
    cdef int _attach(self, uint64_t worker) except -1
    cdef long _new_series(self, uint16_t family, bytes labels) except -2
    cpdef object add(self, uint64_t handle, double value)
    cpdef object record(self, tuple items)
    cdef int _add(self, uint64_t handle, double value) except -1
    cdef int _check(self, uint64_t handle) except -1

cdef struct Cell:
    uint64_t* at                  # the first of a series
    const FamilyShape* shape

# Series that are counted together, looked up once.
cdef class CounterRow:
    cdef Counters _counters       # holds the memory and the shapes
    cdef uint32_t _count
    cdef Cell _cells[MAXIMUM_ROW]
    cpdef object add(self, uint32_t position, double value)
