"""The steps of the flow, a file each: decode, preprocess, infer, alerts and scores, enrich, dead letters, replay."""
