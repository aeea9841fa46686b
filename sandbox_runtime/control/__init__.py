"""The life of a control server: settings, listening, signals, and an orderly end.

`lifecycle` is the order of it all; `journal` is how it is logged; as PID 1 of a container it also
reaps what nobody else does (`orphans`) and looks after a program of the user's (`companion`).
"""
