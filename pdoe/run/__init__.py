"""One run, from its configuration to its record.

In the order in which ``python train.py experiment=...`` calls them:

1. ``train.py``: signals, Hydra, exit codes; :mod:`.command_line` checks the words.
2. :mod:`.run`: ``Run`` resolves (:mod:`.compose`, :mod:`.config`) and checks (:mod:`.values`) the
   configuration, then ``open``, ``train`` and ``close``.
3. ``Run.open`` loads the data and builds the network (:mod:`.preparation`), locks the folder
   (:mod:`.folder`), and reads or begins the record (:mod:`.record`).
4. ``Run.train`` makes a ``Training`` (:mod:`.training`), resumed from :mod:`.checkpoints`. Its
   ``run`` is the loop; :func:`.training.train_step` is one step, at the rate of :mod:`.recipe`,
   and :mod:`.selection` tests the epochs.
5. At the end :mod:`.closing` measures the network, and ``Run.close`` writes the record.
"""
