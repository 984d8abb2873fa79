cimport cython
from libc.math cimport isnan
from libc.string cimport memcpy, memset

from _fastpath.atomics cimport atomic_load_u64, atomic_relax_f64, atomic_relax_u64, atomic_relaxed_u64, atomic_store_u64

OVERFLOW = "_other"
_SEPARATOR = "\x1f"


cdef bytes _joined(tuple labels):
    return _SEPARATOR.join([label.replace(_SEPARATOR, "\ufffd") for label in labels]).encode("utf-8", "replace")


cdef inline uint32_t _cells_of(const FamilyShape* shape) noexcept nogil:
    return 1 if shape.boundaries == 0 else shape.boundaries + 2


cdef inline void _count(uint64_t* cell, const FamilyShape* shape, double value) noexcept nogil:
    cdef uint32_t bucket = 0
    if shape.boundaries == 0:
        atomic_relax_f64(<double*>cell, (<double*>cell)[0] + value)
        return
    while bucket < shape.boundaries and value > shape.edges[bucket]:
        bucket += 1
    atomic_relax_u64(&cell[bucket], cell[bucket] + 1)
    cell += shape.boundaries + 1
    atomic_relax_f64(<double*>cell, (<double*>cell)[0] + value)


@cython.final
cdef class Counters:
    def __init__(self, SharedMemory memory not None, uint64_t worker, families):
        cdef int i, j
        if len(families) > MAXIMUM_FAMILIES:
            raise ValueError(f"at most {MAXIMUM_FAMILIES} families, not {len(families)}")
        self.families = tuple((name, tuple(labels), tuple(boundaries)) for name, labels, boundaries in families)
        for i, (name, _labels, boundaries) in enumerate(self.families):
            if len(boundaries) > MAXIMUM_BOUNDARIES:
                raise ValueError(f"{name}: at most {MAXIMUM_BOUNDARIES} boundaries, not {len(boundaries)}")
            if list(boundaries) != sorted(set(boundaries)):
                raise ValueError(f"{name}: boundaries must rise")
            self.shapes[i].boundaries = len(boundaries)
            for j in range(len(boundaries)):
                self.shapes[i].edges[j] = boundaries[j]
        self._kept_cells = 0
        for i in range(len(self.families)):
            self._kept_cells += _cells_of(&self.shapes[i])
        self.memory = memory
        self._known = {}
        self._attach(worker)

    cdef int _attach(self, uint64_t worker) except -1:
        if worker >= self.memory.header.workers:
            raise IndexError(f"worker {worker} of {self.memory.header.workers}")
        cdef uint64_t row_bytes = (sizeof(RowHeader) + self.memory.header.counter_series * sizeof(Series)
                                   + self.memory.header.counter_cells * sizeof(uint64_t))
        cdef char* at = self.memory.base + self.memory.header.counters_at + worker * row_bytes
        self.header = <RowHeader*>at
        self.directory = <Series*>(at + sizeof(RowHeader))
        self.cells = <uint64_t*>(at + sizeof(RowHeader) + self.memory.header.counter_series * sizeof(Series))
        cdef uint64_t i
        for i in range(min(atomic_load_u64(&self.header.series), self.memory.header.counter_series)):
            if self.directory[i].family < len(self.families):
                self._known[(self.directory[i].family, self._labels(&self.directory[i]))] = i
        return 0

    cdef tuple _labels(self, Series* series):
        if not self.families[series.family][1]:
            return ()
        text = (<char*>series.labels)[:min(<uint64_t>series.label_length, <uint64_t>LABEL_BYTES)]
        return tuple(text.decode("utf-8", "replace").split(_SEPARATOR))

    # The new series' place in the directory, -1 when it does not fit.
    cdef long _new_series(self, uint16_t family, bytes labels) except -2:
        cdef uint64_t at = self.header.series
        cdef uint32_t size = _cells_of(&self.shapes[family])
        cdef Series* series
        if (at >= self.memory.header.counter_series or self.header.cells + size > self.memory.header.counter_cells
                or len(labels) > LABEL_BYTES):
            return -1
        series = &self.directory[at]
        series.family = family
        series.cell = <uint32_t>self.header.cells
        series.label_length = <uint16_t>len(labels)
        memcpy(series.labels, <char*>labels, len(labels))
        memset(&self.cells[self.header.cells], 0, size * sizeof(uint64_t))
        self.header.cells += size
        atomic_store_u64(&self.header.series, at + 1)
        return <long>at

    def series(self, uint16_t family, tuple labels not None):
        cdef long handle
        known = self._known.get((family, labels))
        if known is not None:
            return known
        if family >= len(self.families):
            raise IndexError(f"family {family} of {len(self.families)}")
        name, names, _boundaries = self.families[family]
        if len(labels) != len(names):
            raise ValueError(f"{name} has the labels {names}, not {labels}")
        text = _joined(labels)
        clean = tuple(text.decode().split(_SEPARATOR)) if labels else ()
        if clean != labels:
            return self.series(family, clean)
        handle = -1
        # the last places and cells are kept for the overflow series, one a family, so that nothing is counted nowhere
        if (self.header.series + len(self.families) < self.memory.header.counter_series
                and self.header.cells + _cells_of(&self.shapes[family]) + self._kept_cells <= self.memory.header.counter_cells):
            handle = self._new_series(family, text)
        if handle < 0:
            atomic_relax_u64(&self.header.dropped, self.header.dropped + 1)
            labels = (OVERFLOW,) * len(names)
            known = self._known.get((family, labels))
            if known is not None:
                return known
            handle = self._new_series(family, _joined(labels))
            if handle < 0:
                raise ValueError("counters: `shared_memory.counter_series` or `counter_cells` is too small for the families")
        self._known[(family, labels)] = handle
        return handle

    cdef int _add(self, uint64_t handle, double value) except -1:
        if isnan(value):
            return 0
        self._check(handle)
        _count(&self.cells[self.directory[handle].cell], &self.shapes[self.directory[handle].family], value)
        return 0

    cdef int _check(self, uint64_t handle) except -1:
        if handle >= min(self.header.series, self.memory.header.counter_series):
            raise IndexError(f"series {handle} of {self.header.series}")
        return 0

    cpdef object add(self, uint64_t handle, double value):
        self._add(handle, value)

    cpdef object record(self, tuple items):
        if items is None:
            raise TypeError("items must be a tuple")
        cdef uint64_t handle
        cdef double value
        for item in items:
            handle, value = item
            self._add(handle, value)

    def set(self, uint64_t handle, double value):
        if handle >= self.header.series or self.shapes[self.directory[handle].family].boundaries != 0:
            raise IndexError(f"series {handle} is no gauge")
        atomic_relax_f64(<double*>&self.cells[self.directory[handle].cell], value)

    @property
    def dropped(self):
        return atomic_relaxed_u64(&self.header.dropped)

    def read(self):
        cdef uint64_t i, j
        cdef Series* series
        cdef FamilyShape* shape
        cdef uint64_t* cell
        found = []
        for i in range(min(atomic_load_u64(&self.header.series), self.memory.header.counter_series)):
            series = &self.directory[i]
            if series.family >= len(self.families):
                continue
            shape = &self.shapes[series.family]
            cell = &self.cells[series.cell]
            labels = self._labels(series)
            if shape.boundaries == 0:
                found.append((series.family, labels, (), (<double*>cell)[0]))
            else:
                counts = tuple([cell[j] for j in range(shape.boundaries + 1)])
                found.append((series.family, labels, counts, (<double*>&cell[shape.boundaries + 1])[0]))
        return found


@cython.final
cdef class CounterRow:
    def __init__(self, Counters counters not None, tuple handles not None):
        cdef uint64_t handle
        if len(handles) > MAXIMUM_ROW:
            raise ValueError(f"at most {MAXIMUM_ROW} series, not {len(handles)}")
        self._counters = counters
        self._count = 0
        for handle in handles:
            counters._check(handle)
            self._cells[self._count].at = &counters.cells[counters.directory[handle].cell]
            self._cells[self._count].shape = &counters.shapes[counters.directory[handle].family]
            self._count += 1

    cpdef object add(self, uint32_t position, double value):
        if position >= self._count:
            raise IndexError(f"series {position} of a row of {self._count}")
        if not isnan(value):
            _count(self._cells[position].at, self._cells[position].shape, value)
