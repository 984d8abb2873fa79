"""Scores by cost: minus the seconds that the request is expected to add at each candidate. For compiled callers alone.

They are what is left of the prefill that is queued there; its own uncached prompt tokens, which count the more the more endpoints are
busy, since whoever comes later waits for them too, the more was sent or computed there lately, by whomever, and the more requests are
to come there meanwhile; both together once more the longer they take; the slow-down of and by what runs there; the pressure on a nearly
full KV cache; and the loading of an adapter that is not there. All at the speed that was measured of each endpoint's prefills. A gateway
among others has likings of its own as well, so that they do not all choose alike.
"""
