"""The benchmark harness: what people wait for, measured beside what they would use instead.

A *scenario* is one thing that somebody waits for. *Candidates* are the ways to get it: ours, and
every peer that is installed. Rounds are interleaved, one measurement of each candidate a round, so
that a busy machine is busy for all of them; what is reported first is therefore always a ratio.
"""
