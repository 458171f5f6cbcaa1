"""Clean documents in, the rows of every training step out.

`stage.py` writes token shards and row tables; `mixture.py` says which row a step reads, `loader.py` reads it. No torch here.
"""
