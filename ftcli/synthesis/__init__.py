"""Data that models make: answers, judgements and revisions, one finished item at a time, so that nothing is made twice.

`tasks` says what is asked and what becomes of the replies, `journal` keeps what is finished, `carry_out` goes through
the items, and a backend answers: a local model (worker/local.py), an endpoint, or rules.
"""
