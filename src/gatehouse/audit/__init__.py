"""Who did what: a line for each write and each refusal, written by the supervisor before the answer leaves.

`layer` decides who gets a line and `answer` holds the answer for it; `entry` says what it says, `log` hands it over by
the messages of `wire`; `refusals` remembers the latest for the access page. Promises: no acknowledged write without its
line. May import `request`, `policy`, `operations`.
"""
