"""The command line: settings in, programs wired together, nothing else.

What a program does belongs to the packages below; here is only how it is started, what it prints, and how it is stopped.
"""

__version__ = "0.1.0"
