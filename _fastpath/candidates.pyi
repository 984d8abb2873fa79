"""Who may be chosen: what is known of each endpoint of a pool, and the filters. For compiled callers alone.

Endpoints that were not scraped lately are taken for the mean of those of their role that were: nobody is preferred for being unknown.
"""
