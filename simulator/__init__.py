"""An engine in software: what vLLM does with requests, without a model.

Here belong its timing (continuous batching, chunked prefill), its paged KV cache with prefix reuse, its OpenAI endpoints, its
metrics and KV events under vLLM's names, and faults on command. The timing core takes time as an argument, so that it runs
behind a socket in real time and in a benchmark in virtual time. It imports nothing of ours: an engine knows no gateway.
"""
