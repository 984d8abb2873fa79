"""Who asks, and what they may: API keys, tokens of an issuer, tenants.

The gate answers on the request path; a keeper beside it reads files and fetches keys, so that no request waits for either (but for an
issuer's very first keys). Nothing here knows of routes, limits or engines; clock and fetcher are handed in.
"""
