"""Bytes to clients, and whether there is still somebody to read them: the guards that RSGI leaves to the application.

Here belongs what knows the client's socket, and what of a stream its client may see. What an answer is made of is ``gateway.reply``'s.
"""
