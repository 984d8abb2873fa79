"""From a request to the token ids that the engine will make of it, so that what engines say they hold by token can be matched.

``conversation`` and ``template`` render as vLLM does, ``tokenizer`` makes ids, ``service`` does both in threads within a time budget. The
last imports the others when they are needed: ``tokenizers`` and ``jinja2`` are extras. Whatever cannot be done here is no error: the
prompt is matched by its text.
"""
