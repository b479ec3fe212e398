"""Photographs with captions: reading, generating, converting and checking data sets.

Everything ends in one form, a `CaptionDataset` (module `karpathy`), whether it comes from COCO,
Flickr8k, Flickr30k, a person's own table of captions or the built-in shapes.
"""
