"""Many runs beside a published table; needs no torch.

:mod:`.sources` finds runs, :mod:`.runs` reads and merges ``runs.csv``, :mod:`.paper` reads the
published rows. :mod:`.table` makes the lines of a table: ``Line.judgement`` there decides a
verdict. :mod:`.pages` writes them with the columns of :mod:`.columns`; :mod:`.comparison` sets a
user's runs beside the committed ones.
"""
