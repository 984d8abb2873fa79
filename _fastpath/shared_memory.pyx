cimport cython
import mmap
import os
import secrets

from libc.string cimport memset
from cpython.buffer cimport PyObject_GetBuffer, PyBuffer_Release, PyBUF_SIMPLE, PyBUF_WRITABLE
from _fastpath.atomics cimport atomic_load_u64, atomic_store_u64

cdef uint64_t MAGIC = 0x4B434F54534E4550          # "PENSTOCK", little endian
cdef uint64_t LAYOUT_VERSION = 10
cdef uint64_t HEADER_BYTES = 4096
cdef uint64_t WORKER_ROW_BYTES = sizeof(WorkerRow)
cdef uint64_t METRICS_BYTES = 128
cdef uint64_t ADAPTER_ROW_BYTES = 256
cdef uint64_t BUCKET_BYTES = 448
cdef uint64_t JOURNAL_RECORD_BYTES = 400
cdef uint64_t PREFIX_ENTRY_BYTES = 24
cdef uint64_t COUNTER_SERIES_BYTES = 320
cdef uint64_t FAIR_PLACES = 256
cdef uint64_t FAIR_PLACE_BYTES = 64
cdef uint64_t FAIR_HEAD_BYTES = 32
cdef uint64_t FAIR_WORDS_BYTES = 2 * 8192 * 8
cdef uint64_t LENGTHS_BYTES = 512 * 8 * 8

STATES = ("starting", "serving", "draining")


class LayoutError(Exception):
    """The file is no shared memory of this version of Penstock."""


cdef uint64_t _checksum(const Header* header) noexcept nogil:
    cdef const uint64_t* words = &header.hash_key_low
    cdef uint64_t count = (sizeof(Header) - 4 * sizeof(uint64_t)) // sizeof(uint64_t)
    cdef uint64_t total = 0x9E3779B97F4A7C15
    cdef uint64_t i
    for i in range(count):
        total = (total ^ words[i]) * <uint64_t>0xD6E8FEB86659FD93
        total ^= total >> 32
    return total


cdef uint64_t _place(uint64_t* end, uint64_t size) noexcept nogil:
    cdef uint64_t at = (end[0] + 4095) & ~<uint64_t>4095
    end[0] = at + size
    return at


@cython.final
cdef class SharedMemory:
    def __cinit__(self):
        self._held = False
        self.base = NULL

    def __init__(self):
        raise TypeError("use SharedMemory.create or SharedMemory.attach")

    def __dealloc__(self):
        if self._held:
            PyBuffer_Release(&self._view)

    cdef int _map(self, object mapping) except -1:
        PyObject_GetBuffer(mapping, &self._view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        self._held = True
        self._mapping = mapping
        self.base = <char*>self._view.buf
        self.header = <Header*>self.base
        return 0

    cdef WorkerRow* row(self, uint64_t index) except NULL:
        if index > self.header.workers:
            raise IndexError(f"worker row {index} of {self.header.workers + 1}")
        return <WorkerRow*>(self.base + self.header.worker_rows_at) + index

    @staticmethod
    def create(str path, *, workers, slots=8192, buckets=4096, journal_records=4096, prefix_bytes=64 << 20,
               counter_series=1024, counter_cells=65536):
        if not 1 <= workers < MAXIMUM_WORKERS:
            raise ValueError(f"workers must be 1 to {MAXIMUM_WORKERS - 1}, not {workers}")
        for name, value in (("slots", slots), ("buckets", buckets), ("journal_records", journal_records),
                            ("counter_series", counter_series), ("counter_cells", counter_cells)):
            if not 1 <= value <= 1 << 24:
                raise ValueError(f"{name} must be 1 to {1 << 24}, not {value}")
        if not 192 <= prefix_bytes <= 1 << 40:
            raise ValueError(f"prefix_bytes must be 192 to {1 << 40}, not {prefix_bytes}")
        cdef Header header
        memset(&header, 0, sizeof(Header))
        header.magic = MAGIC
        header.layout_version = LAYOUT_VERSION
        header.hash_key_low = secrets.randbits(64)
        header.hash_key_high = secrets.randbits(64)
        header.workers = workers
        header.slots = (slots + 63) & ~63
        header.buckets = buckets
        header.journal_records = journal_records
        header.prefix_entries = prefix_bytes // PREFIX_ENTRY_BYTES // 8 * 8
        header.counter_series = counter_series
        header.counter_cells = counter_cells
        cdef uint64_t end = HEADER_BYTES
        header.worker_rows_at = _place(&end, (header.workers + 1) * WORKER_ROW_BYTES)
        header.slots_at = _place(&end, 64 + header.slots * 16 + (header.workers + 1) * header.slots)
        header.load_at = _place(&end, header.workers * header.slots * LOAD_CELL_BYTES)
        header.metrics_at = _place(&end, header.slots * METRICS_BYTES)
        header.buckets_at = _place(&end, 64 + header.buckets * BUCKET_BYTES)
        header.journals_at = _place(&end, header.workers * header.journal_records * JOURNAL_RECORD_BYTES)
        header.prefix_at = _place(&end, 64 + header.prefix_entries * PREFIX_ENTRY_BYTES)
        header.counters_at = _place(&end, header.workers * (
            64 + header.counter_series * COUNTER_SERIES_BYTES + header.counter_cells * 8))
        header.health_at = _place(&end, header.slots * sizeof(uint64_t))
        header.adapters_at = _place(&end, header.slots * ADAPTER_ROW_BYTES)
        header.fair_at = _place(&end, FAIR_PLACES * (
            FAIR_PLACE_BYTES + header.workers * FAIR_HEAD_BYTES) + FAIR_WORDS_BYTES)
        header.lengths_at = _place(&end, LENGTHS_BYTES)
        header.size = (end + 4095) & ~<uint64_t>4095
        header.checksum = _checksum(&header)

        draft = f"{path}.{os.getpid()}.new"
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # the blocks are taken now: a full disk must fail here, and not as SIGBUS under a request
            os.posix_fallocate(descriptor, 0, header.size)
            os.pwrite(descriptor, (<char*>&header)[:sizeof(Header)], 0)
            os.rename(draft, path)
        except BaseException:
            os.unlink(draft)
            raise
        finally:
            os.close(descriptor)
        return SharedMemory.attach(path)

    @staticmethod
    def attach(str path):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if status.st_size < HEADER_BYTES:
                raise LayoutError(f"{path} is too short to be Penstock's shared memory")
            mapping = mmap.mmap(descriptor, status.st_size)
        finally:
            os.close(descriptor)
        cdef SharedMemory memory = SharedMemory.__new__(SharedMemory)
        memory._map(mapping)
        memory.path = path
        memory.inode = status.st_ino
        if memory.header.magic != MAGIC:
            raise LayoutError(f"{path} is not Penstock's shared memory")
        if memory.header.layout_version != LAYOUT_VERSION:
            raise LayoutError(f"{path} has layout {memory.header.layout_version}, this Penstock uses {LAYOUT_VERSION}")
        if memory.header.size != <uint64_t>status.st_size or memory.header.checksum != _checksum(memory.header):
            raise LayoutError(f"{path} is damaged: its header does not match its size or checksum")
        return memory

    def is_current(self):
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        return status.st_ino == self.inode and <uint64_t>status.st_size == self.header.size

    @property
    def size(self):
        return self.header.size

    @property
    def workers(self):
        return self.header.workers

    @property
    def slots(self):
        return self.header.slots

    @property
    def hash_key(self):
        return (self.header.hash_key_low, self.header.hash_key_high)

    def claim_row(self, uint64_t index, uint64_t process, uint64_t started):
        cdef WorkerRow* row = self.row(index)
        memset(row, 0, sizeof(WorkerRow))
        atomic_store_u64(&row.started, started)
        atomic_store_u64(&row.process, process)

    def release_row(self, uint64_t index):
        cdef WorkerRow* row = self.row(index)
        atomic_store_u64(&row.process, 0)
        atomic_store_u64(&row.heartbeat, 0)
        atomic_store_u64(&row.state, 0)
        atomic_store_u64(&row.in_flight, 0)

    def beat(self, uint64_t index, uint64_t now, uint64_t in_flight, uint64_t resident, uint64_t loop_lag,
             uint64_t waiting=0):
        cdef WorkerRow* row = self.row(index)
        atomic_store_u64(&row.in_flight, in_flight)
        atomic_store_u64(&row.resident, resident)
        atomic_store_u64(&row.loop_lag, loop_lag)
        atomic_store_u64(&row.waiting, waiting)
        atomic_store_u64(&row.heartbeat, now)

    def set_state(self, uint64_t index, uint64_t state):
        if state >= len(STATES):
            raise ValueError(f"state {state}")
        atomic_store_u64(&self.row(index).state, state)

    def set_snapshot(self, uint64_t index, uint64_t epoch, uint64_t sequence, uint64_t now):
        cdef WorkerRow* row = self.row(index)
        atomic_store_u64(&row.epoch, epoch)
        atomic_store_u64(&row.sequence, sequence)
        atomic_store_u64(&row.applied, now)

    def read_row(self, uint64_t index):
        cdef WorkerRow* row = self.row(index)
        return {
            "process": atomic_load_u64(&row.process),
            "started": atomic_load_u64(&row.started),
            "heartbeat": atomic_load_u64(&row.heartbeat),
            "state": STATES[min(atomic_load_u64(&row.state), <uint64_t>2)],
            "epoch": atomic_load_u64(&row.epoch),
            "sequence": atomic_load_u64(&row.sequence),
            "applied": atomic_load_u64(&row.applied),
            "in_flight": atomic_load_u64(&row.in_flight),
            "resident": atomic_load_u64(&row.resident),
            "loop_lag": atomic_load_u64(&row.loop_lag),
            "waiting": atomic_load_u64(&row.waiting),
        }
