"""Mixed use for an hour while everything around the mount fails and heals; promise 13 and others.

    python -m tests.promises.soak --minutes 60 [--seed N] [--report DIR]

Eight images in four places (``world``), each behind a ``valve`` that can stall, cut or refuse; 32
``reader`` processes that compare every byte with the versions of its image; ``troubles`` that come
and go; a ``watching`` that samples memory, descriptors, threads, gauges and the cache; and a
``verdict`` over it all. The front-end, the object store and nginx are as in the other tests.
"""
