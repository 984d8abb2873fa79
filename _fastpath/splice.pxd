# A body with members taken out, exchanged and put in: what a scan found is cut and filled, and no other byte is looked at.
#
# Edits are made in the order of the body. A member that goes takes one comma with it: the one behind it, or, when nothing that stays
# is behind it, the one before it.
from _fastpath.scanner cimport MEMBERS, MOST_FORBIDDEN

cdef enum:
    MOST_EDITS = MOST_FORBIDDEN + MEMBERS

cdef struct Edit:
    size_t start                  # these bytes of the body go
    size_t end
    const char* text              # and these come in their place; NULL = a whole member goes
    size_t size

cdef struct Plan:
    const char* text              # the body
    size_t length
    size_t insert_at              # where members are put in: behind the last value
    int count
    bint empty                    # no member of the body stays
    Edit edits[MOST_EDITS]
