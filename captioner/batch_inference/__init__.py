"""Batch inference: the captions of a whole data set, written as Parquet, on one machine or many.

A source is cut into numbered shards (`sources`); a shard becomes one file that appears whole or not
at all (`shard_captioner`), so each photograph is captioned exactly once whatever was killed
(`job`). Shards are given to the processes of this machine (`local`) or to the actors of a Ray
cluster (`ray_data`), which do the same with them. Needs the extra `datasets`.
"""
